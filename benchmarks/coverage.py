"""How often the intervals of ``pirl_core.evaluation.stats`` hold the truth, by simulation, beside the earlier ones.

``python -m benchmarks.coverage`` writes the tables of docs/statistics.md (about 15 minutes on one core).

Axes: R replicates, S training seeds, T tasks, M initial states of all tasks, B bootstrap replicates.

A policy of seed s succeeds in state m when a normal variable of variance 1 lies below the quantile of the success rate.
Its variance has a share of the state (`shared`: all seeds meet the same difficulty), one of the seed (`between`) and
the rest of the episode. So the marginal rate is exact whatever the shares. Two policies of a pair correlate by `alike`
in state and episode, by 1/2 in the seed.
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri

from pirl_core.evaluation.stats import Estimate, Grid, difference_interval, mean_interval

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
SHARED = {"none": 0.0, "moderate": 0.4, "strong": 0.85}
BETWEEN = (0.0, 0.1)
"""Share of the seed. 0.1: with a rate of one half, seeds' rates have a standard deviation of 12 points."""
LENGTH = 5
Z = float(ndtri(0.975))


class Cell(NamedTuple):
    """One design. rate: of success, or of solving one subtask of a sequence; change: of the second policy's rate."""

    kind: str  # rate, difference, length
    seeds: int
    tasks: int
    states: int  # of each task
    rate: float
    shared: str = "none"
    between: float = 0.0
    change: float = 0.0
    alike: float = 0.0

    def __str__(self) -> str:
        text = f"{self.tasks} × {self.states} states, rate {self.rate:g}"
        if self.kind == "difference":
            text += f" {self.change:+g}, alike {self.alike:g}"
        return text + (f", seed share {self.between:g}" if self.between else "")


def rate_cells() -> list[Cell]:
    designs = itertools.product((1, 3, 5, 10), (1, 4), (5, 20, 50), (0.02, 0.2, 0.5, 0.98), SHARED, BETWEEN)
    return [Cell("rate", *design) for design in designs if design[0] > 1 or design[4:] == ("none", 0)]


def difference_cells() -> list[Cell]:
    """With 10, 20, 50 and 240 states, of one task or of four."""
    changes = ((0.02, 0.0), (0.02, 0.05), (0.5, 0.0), (0.5, 0.3), (0.9, 0.05))
    states = ((1, 10), (4, 5), (1, 50), (4, 60))
    designs = itertools.product((1, 3, 5, 10), states, changes, SHARED, BETWEEN, (0, 0.8, 0.999))
    return [
        Cell("difference", seeds, tasks, each, rate, shared, between, change, alike)
        for seeds, (tasks, each), (rate, change), shared, between, alike in designs
        if seeds > 1 or (shared, between) == ("none", 0)
    ]


def length_cells() -> list[Cell]:
    designs = itertools.product((1, 3, 5, 10), (1,), (5, 20, 50), (0.05, 0.6, 0.98), SHARED, BETWEEN)
    return [Cell("length", *design) for design in designs if design[0] > 1 or design[5] == 0]


def draw(cell: Cell, replicates: int, rng: np.random.Generator) -> tuple[Grid, float]:
    """Outcomes (R, S, M) of a cell, and the mean that they estimate."""
    S, M = cell.seeds, cell.tasks * cell.states
    shared = SHARED[cell.shared]
    own = 1 - shared - cell.between
    shapes = {"state": (replicates, 1, M), "seed": (replicates, S, 1), "episode": (replicates, S, M)}
    scales = {"state": shared**0.5, "seed": cell.between**0.5, "episode": own**0.5}
    correlations = {"state": cell.alike, "seed": 0.5, "episode": cell.alike}

    def normal(part: str) -> np.ndarray:
        drawn: np.ndarray = scales[part] * rng.standard_normal(shapes[part], dtype=np.float32)
        return drawn

    first = {part: normal(part) for part, scale in scales.items() if scale}
    task = np.repeat(np.arange(cell.tasks), cell.states)
    played = np.ones((S, M), bool)
    # Tasks differ as far as rates allow, evenly about the cell's.
    room = 0.8 * min(cell.rate, 1 - cell.rate - cell.change) * (cell.kind != "length")
    rates = (cell.rate + room * np.linspace(-1, 1, cell.tasks) if cell.tasks > 1 else np.array([cell.rate]))[task]
    if cell.kind == "length":
        quantile, rest = float(ndtri(cell.rate)), first.get("state", 0) + first.get("seed", 0)
        steps = [rest + normal("episode") < quantile for _ in range(LENGTH)]
        value = np.cumprod(steps, 0).sum(0)
        nodes, weights = np.polynomial.hermite_e.hermegauss(99)
        solved = ndtr((quantile - nodes * (1 - own) ** 0.5) / own**0.5)
        truth = sum(solved**count for count in range(1, LENGTH + 1)) @ weights / weights.sum()
        return Grid(value.astype(float), played, task), float(truth)
    before = sum(first.values()) < ndtri(rates)
    if cell.kind == "rate":
        return Grid(before.astype(float), played, task), cell.rate
    second = [r * first[part] + (1 - r * r) ** 0.5 * normal(part) for part, r in correlations.items() if part in first]
    after = sum(second) < ndtri(rates + cell.change)
    return Grid(after.astype(float) - before, played, task), cell.change


def present(cell: Cell, grid: Grid) -> Estimate:
    if cell.kind == "difference":
        return difference_interval(grid)
    return mean_interval(grid, LENGTH if cell.kind == "length" else 1)


def coverage(estimate: Estimate, truth: float) -> float:
    """Share of the intervals that hold the truth; rounding at a bound is forgiven."""
    return float(np.mean((estimate.low <= truth + 1e-9) & (truth <= estimate.high + 1e-9)))


def wilson(grid: Grid) -> Estimate:
    """Wilson's interval (1927) of the pooled episodes, used before."""
    rate, n = grid.value.mean((1, 2)), grid.n
    center, half = rate + Z**2 / 2 / n, Z * np.sqrt(rate * (1 - rate) / n + Z**2 / 4 / n**2)
    return Estimate(rate, (center - half) / (1 + Z**2 / n), (center + half) / (1 + Z**2 / n))


def bootstrap(grid: Grid, rng: np.random.Generator, samples: int = 400) -> Estimate:
    """The stratified percentile bootstrap, used before: seeds with replacement, then episodes within each task.

    Values -1, 0 and 1; one drawn seed serves all tasks.
    """
    tasks = int(grid.task[-1]) + 1
    cells = grid.value.reshape(*grid.value.shape[:2], tasks, -1)  # (R, S, T, M / T)
    n, up, down = cells.shape[-1], (cells > 0).mean(-1), (cells < 0).mean(-1)
    limits = []
    for gain, loss in zip(up, down, strict=True):
        drawn = rng.integers(len(gain), size=(samples, len(gain)))  # (B, S)
        gained = rng.binomial(n, gain[drawn])
        left = np.divide(loss, 1 - gain, out=np.zeros_like(loss), where=gain < 1).clip(0, 1)
        lost = rng.binomial(n - gained, left[drawn]) if loss.any() else 0
        limits.append(np.quantile((gained - lost).mean((1, 2)) / n, [0.025, 0.975]))
    return Estimate(grid.value.mean((1, 2)), *np.transpose(limits))


class Measured(NamedTuple):
    """Coverage and mean width of each method in one cell."""

    cell: Cell
    found: dict[str, tuple[float, float]]


def measure(cell: Cell, replicates: int, old: int, rng: np.random.Generator) -> Measured:
    """``old``: replicates for the methods used before."""
    grid, truth = draw(cell, replicates, rng)
    estimates = {"now": present(cell, grid)}
    few = grid._replace(value=grid.value[:old])
    if cell.kind == "rate":
        estimates["Wilson"] = wilson(grid)
    if cell.kind != "length":
        estimates["bootstrap"] = bootstrap(few, rng)
    return Measured(cell, {name: (coverage(e, truth), float(np.mean(e.high - e.low))) for name, e in estimates.items()})


def table(rows: Sequence[Measured], again: Callable[[Cell], float]) -> str:
    """A line for each number of seeds and kind of shared difficulty. again: a fresh estimate of a cell's coverage."""
    methods = [name for name in ("Wilson", "bootstrap", "now") if name in rows[0].found]
    header = ["seeds", "shared difficulty", "cells"]
    for name in methods:
        header += [f"{name}: least %", "below 93 %", "mean width"]
    lines = [header, ["---:", "---", *["---:"] * (len(header) - 2)]]
    lines[0].append("least of now, measured again")
    lines[1].append("---")
    scale = 1 if rows[0].cell.kind == "length" else 100
    for seeds in sorted({row.cell.seeds for row in rows}):
        for shared in SHARED:
            here = [row for row in rows if (row.cell.seeds, row.cell.shared) == (seeds, shared)]
            if not here:
                continue
            line = [str(seeds), shared, str(len(here))]
            for name in methods:
                covered, width = np.transpose([row.found[name] for row in here])
                line += [f"{100 * covered.min():.1f}", str((covered < 0.93).sum()), f"{scale * width.mean():.2f}"]
            least = min(here, key=lambda row: row.found["now"]).cell
            lines.append([*line, f"{100 * again(least):.1f}: {least}"])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(page: Path, name: str, text: str) -> None:
    """Puts ``text`` between the markers ``<!-- name:begin -->`` and ``<!-- name:end -->``."""
    begin, end = f"<!-- {name}:begin -->\n", f"\n<!-- {name}:end -->"
    whole = page.read_text(encoding="utf-8")
    head, tail = whole[: whole.index(begin) + len(begin)], whole[whole.index(end) :]
    page.write_text(head + text + tail, encoding="utf-8")


def main(arguments: Iterable[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description="Simulate the intervals' coverage; write docs/statistics.md."
    )
    parser.add_argument("--replicates", type=int, default=2000, metavar="R", help="of each cell (default: %(default)s)")
    parser.add_argument("--page", type=Path, default=PAGE, help="file with the markers (default: %(default)s)")
    options = parser.parse_args(arguments if arguments is None else list(arguments))
    for number, cells in enumerate((rate_cells(), difference_cells(), length_cells())):
        name = cells[0].kind
        rng = np.random.default_rng(number)
        rows = [measure(cell, options.replicates, max(1, options.replicates // 10), rng) for cell in cells]

        def again(cell: Cell, rng: np.random.Generator = rng) -> float:
            grids = (draw(cell, options.replicates, rng) for _ in range(10))
            return float(np.mean([coverage(present(cell, grid), truth) for grid, truth in grids]))

        write(options.page, name, table(rows, again))
        print(f"{name}: {len(rows)} cells", flush=True)


if __name__ == "__main__":
    main()
