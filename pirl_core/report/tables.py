"""Metrics as text. Imports nothing heavy: the terminal table at the end of a run must cost no time."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

METHODS = {
    "sft": "SFT",
    "flow_sde": "Flow-SDE",
    "flow_noise": "Flow-Noise",
    "flow_cps": "Flow-CPS",
    "grpo": "GRPO",
    "reinflow": "ReinFlow",
}
SINGLE_SEED = "One training seed: the interval says nothing of seed-to-seed variance."
OLDER = "‡"
"""Marks what is of older code (`older.older_rows`)."""
NUMBER = re.compile(r"[+−]?[\d.]+( |$)|–$")
Row = dict[str, Any]
Keys = Collection[tuple[str, str]]
"""(experiment, method) of the rows to mark as older."""


def method_label(method: str) -> str:
    """`flow_sde` as the paper writes it; an unknown method by its own name."""
    return METHODS.get(method, method)


def marked_method(experiment: str, method: str, older: Keys = (), *beside: str) -> str:
    """The method's label; with a mark where its row is older, or that of a method ``beside`` which it is compared."""
    is_older = any((experiment, name) in older for name in (method, *beside))
    return method_label(method) + (f" {OLDER}" if is_older else "")


def split_title(split: str) -> str:
    known = {"id": "ID", "id:exploring": "ID, exploring", "id:exploring_before": "ID, SFT exploring"}
    return known.get(split) or split.replace("ood:", "OOD ").replace("_", " ")


def percent(rate: float | None, digits: int = 1) -> str:
    return "–" if rate is None else f"{100 * rate:.{digits}f}"


def amount(value: float | None) -> str:
    """A return: three digits, and no fewer than its whole ones."""
    if value is None:
        return "–"
    return (f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}").replace("-", "−")


def gain(diff: float) -> str:
    """A difference of returns, always with its sign."""
    return ("+" if diff >= 0 else "") + amount(diff)


def difference(row: Row) -> Callable[[float], str]:
    """How a row's difference is written."""
    return gain if is_return(row) else points


def is_return(row: Mapping[str, Any]) -> bool:
    """Whether a row of metrics is of returns, not of successes."""
    return row.get("score") == "return"


def shown(value: float | None, row: Row) -> str:
    """A number of ``row``, as what it is."""
    return amount(value) if is_return(row) else percent(value)


def interval_of(row: Row) -> str:
    return interval(row["ci_low"], row["ci_high"], row["single_seed"], amount if is_return(row) else percent)


def difference_interval(row: Row) -> str:
    return interval(row["ci_low"], row["ci_high"], row["single_seed"], difference(row))


def score_title(rows: Iterable[Mapping[str, Any]], success: str = "success %", returns: str = "return") -> str:
    """Of a column with the numbers of ``rows``."""
    kinds = dict.fromkeys(returns if is_return(row) else success for row in rows)
    return ", ".join(kinds) or success


def interval(low: float, high: float, single_seed: bool, show: Callable[[float], str] = percent) -> str:
    """Limits as ``show`` prints one; marked where they come of one training seed."""
    return f"{show(low)} to {show(high)}" + (" †" if single_seed else "")


def seed_note(rows: Iterable[Row]) -> str:
    """What the mark means; '' where no row bears it."""
    return f"† {SINGLE_SEED}" if any(row["single_seed"] for row in rows) else ""


def points(diff: float) -> str:
    """A difference in percentage points, always with its sign."""
    return f"{100 * diff:+.1f}".replace("-", "−")


def length(value: float) -> str:
    """Subtasks solved of a sequence."""
    return f"{value:.3f}"


def seconds(value: float | None) -> str:
    """Wall time as people say it: 48 s, 3 min 20 s, 2 h 05 min."""
    if value is None:
        return "–"
    whole = round(value)
    if whole < 60:
        return f"{value:.1f} s" if value < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(mib: float | None) -> str:
    if mib is None:
        return "–"
    return f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib:.0f} MiB"


def rates_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the main table. The column of group means appears only where it says something new."""
    rows = metrics["rows"]
    means = any(row["group_mean"] not in (None, row["rate"]) for row in rows)
    header = ["experiment", "model", "split", "method", "n", score_title(rows), "95 % interval"]
    header += ["mean of groups %", "paper %"] if means else ["paper %"]
    cells = []
    for row in rows:
        line = [
            row["experiment"],
            row["model"],
            split_title(row["split"]),
            marked_method(row["experiment"], row["method"], older),
            str(row["n"]),
            shown(row["rate"], row),
            interval_of(row),
        ]
        cells.append(line + ([shown(row["group_mean"], row)] if means else []) + [shown(row["paper"], row)])
    return header, cells


def differences_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    title = score_title(metrics["differences"], "RL − SFT, points", "RL − SFT, return")
    header = ["experiment", "split", "method", "pairs", title, "95 % interval"]
    cells = [
        [
            row["experiment"],
            split_title(row["split"]),
            marked_method(row["experiment"], row["method"], older, "sft"),
            str(row["n"]),
            difference(row)(row["diff"]),
            difference_interval(row),
        ]
        for row in metrics["differences"]
    ]
    return header, cells


def groups_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """Rates by group of tasks; no rows unless some experiment spans more than one group."""
    title = score_title(metrics["groups"])
    header = ["experiment", "method", "group", "n", title, "95 % interval", "paper %"]
    spans = {row["experiment"] for row in metrics["groups"]}
    spans = {e for e in spans if len({r["group"] for r in metrics["groups"] if r["experiment"] == e}) > 1}
    cells = [
        [
            row["experiment"],
            marked_method(row["experiment"], row["method"], older),
            row["group"].replace("_", " "),
            str(row["n"]),
            shown(row["rate"], row),
            interval_of(row),
            shown(row["paper"], row),
        ]
        for row in metrics["groups"]
        if row["experiment"] in spans
    ]
    return header, cells


def chains_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """Sequences of subtasks: how far episodes came; no rows unless some episodes are sequences."""
    rows = metrics.get("chains", [])
    longest = max((len(row["reached"]) for row in rows), default=0)
    header = ["experiment", "split", "method", "n", *[f"Len-{count} %" for count in range(1, longest + 1)]]
    header += ["average", "95 % interval", "paper", "steps a subtask"]
    cells = [
        [
            row["experiment"],
            split_title(row["split"]),
            marked_method(row["experiment"], row["method"], older),
            str(row["n"]),
            *[percent(rate) for rate in row["reached"]],
            *["–"] * (longest - len(row["reached"])),
            length(row["average"]),
            interval(row["ci_low"], row["ci_high"], row["single_seed"], length),
            "–" if row["paper"] is None else length(row["paper"]),
            _limit(row["subtask_steps"], row["protocol_steps"]),
        ]
        for row in rows
    ]
    return header, cells


def exploring_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """Policies that explored, under the noise of a method; no rows where none did."""
    rows = metrics.get("exploring", [])
    header = ["experiment", "noise of", "policy", "n", score_title(rows), "95 % interval"]
    cells = [
        [
            row["experiment"],
            marked_method(row["experiment"], row["method"], older),
            method_label("sft" if row["split"] == "id:exploring_before" else row["method"]),
            str(row["n"]),
            shown(row["rate"], row),
            interval_of(row),
        ]
        for row in rows
    ]
    return header, cells


def served_table(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Policies that somebody else serves; no rows where there are none."""
    header = ["experiment", "policy", "split", "n", score_title(rows), "95 % interval", "start noise"]
    cells = [
        [
            row["experiment"],
            row["policy"],
            split_title(row["split"]),
            str(row["n"]),
            shown(row["rate"], row),
            interval_of(row),
            "of the episode" if row["noise"] == "episode" else "the server's own",
        ]
        for row in rows
    ]
    return header, cells


def _limit(steps: int, published: int) -> str:
    return str(steps) if steps == published else f"{steps}, the protocol {published}"


def shared_starts(metrics: dict[str, list[Row]]) -> list[str]:
    """A sentence for each split whose starts training may have played; [] where evaluation has its starts to itself."""
    rows = metrics.get("shared_starts", [])
    return [f"{row['experiment']}, {split_title(row['split'])}: {row['note']}." for row in rows]


def tasks_table(
    metrics: dict[str, list[Row]], experiment: str, split: str, older: Keys = ()
) -> tuple[list[str], list[list[str]]]:
    """Tasks down, methods across: successes of episodes and the rate in per cent, or the mean return of so many."""
    rows = [row for row in metrics["tasks"] if row["experiment"] == experiment and row["split"] == split]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by_task = {(row["task"], row["method"]): row for row in rows}
    cells = []
    for task in sorted({row["task"] for row in rows}):
        here = [by_task[task, method] for method in methods]
        cells.append([task, *[task_cell(row) for row in here]])
    return ["task", *[marked_method(experiment, method, older) for method in methods]], cells


def task_cell(row: Row) -> str:
    if is_return(row):
        return f"{amount(row['rate'])} ({row['n']})"
    return f"{percent(row['rate'], 0)} ({row['successes']}/{row['n']})"


def runs_table(runs: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["stage", "runs", "wall time", "peak memory", "machine", "revision"]
    cells = [
        [
            stage["stage"],
            str(stage["runs"]),
            seconds(stage["wall_seconds"]),
            memory(stage["peak_memory_mib"]),
            "; ".join(stage["machines"]) or "–",
            ", ".join(stage["revisions"]) or "–",
        ]
        for stage in runs["by_stage"]
    ]
    return header, cells


def warnings_table(warned: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """warned: rows of `inputs.read_warnings`."""
    header = ["stage", "run", "times", "steps", "newest"]
    cells = []
    for row in warned:
        first, last = row.steps[0], row.steps[-1]
        steps = str(first) if first == last else f"{first} to {last}"
        cells.append([row.stage, row.name, str(len(row.steps)), steps, row.text])
    return header, cells


def regret_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """Of risk-sensitive RL: experiments and methods down, γ across, in the cells the regret of all episodes."""
    rows = metrics["regret"]
    columns = [f"at γ = {signed(gamma)}" for gamma in dict.fromkeys(row["gamma"] for row in rows)]
    cells: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        name = row["experiment"], marked_method(row["experiment"], row["method"], older)
        cells.setdefault(name, [*name]).append(_regret(row["regret"][-1], row["single_seed"]))
    return ["experiment", "method", *columns], list(cells.values())


def learners_table(rows: list[Row], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """The same in full, of ``metrics["regret"]`` some: a learner a line."""
    header = ["experiment", "method", "γ", "optimum", "J at the end", "authors' logs"]
    header += ["regret at K/4", "regret at K/2", "regret at K", "exponent", "bound"]
    cells = [
        [
            row["experiment"],
            marked_method(row["experiment"], row["method"], older),
            signed(row["gamma"]),
            f"{row['optimum']:.4f}",
            f"{row['value']:.4f}",
            "–" if row["paper"] is None else f"{row['paper']:.4f}",
            *[_regret(point, row["single_seed"]) for point in row["regret"]],
            "–" if row["exponent"] is None else signed(round(row["exponent"], 2)),
            scientific(row["bound"]),
        ]
        for row in rows
    ]
    return header, cells


def _regret(point: Row, single_seed: bool) -> str:
    """The mean and, where seeds differ, its interval."""
    if point["ci_low"] is None:
        return f"{point['mean']:.1f}" + (" †" if single_seed else "")
    return f"{point['mean']:.1f} ({point['ci_low']:.1f} to {point['ci_high']:.1f})"


def signed(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def scientific(value: float) -> str:
    """2.4 × 10⁹"""
    digits, _, power = f"{value:.1e}".partition("e")
    return f"{digits} × 10{str(int(power)).translate(str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻'))}"


def headline_table(metrics: dict[str, list[Row]], older: Keys = ()) -> tuple[list[str], list[list[str]]]:
    """What a scale is about: rates, or of risk-sensitive RL regrets."""
    return regret_table(metrics, older) if metrics.get("regret") else rates_table(metrics, older)


def results_table(metrics: dict[str, list[Row]]) -> str:
    """The main tables for a terminal, columns aligned."""
    parts = ["\n".join([aligned(*headline_table(metrics)), *shared_starts(metrics)])]
    chains = chains_table(metrics)
    if chains[1]:
        parts.append(aligned(*chains))
    if metrics["differences"]:
        parts.append(aligned(*differences_table(metrics)))
    note = seed_note([*metrics["rows"], *metrics.get("regret", [])])
    return "\n\n".join(part for part in (*parts, note) if part)


def aligned(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Columns padded to equal width, numbers to the right; a row is a line, whatever its cells hold."""
    cells = [[" ".join(cell.splitlines()) for cell in row] for row in cells]
    rows = [list(header), *cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    right = numeric(header, cells)
    lines = []
    for index, row in enumerate(rows):
        pads = [" " * (width - len(cell)) for cell, width in zip(row, widths, strict=True)]
        parts = [pad + cell if r else cell + pad for cell, pad, r in zip(row, pads, right, strict=True)]
        lines.append("  ".join(parts).rstrip())
        if index == 0:
            lines.append("  ".join("─" * width for width in widths))
    return "\n".join(lines)


def markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A GitHub table; columns of numbers are aligned to the right."""
    right = numeric(header, cells)
    lines = [list(header), ["---:" if r else "---" for r in right], *cells]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def numeric(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[bool]:
    """Which columns start with a number, or are a dash, in every row."""
    return [bool(cells) and all(NUMBER.match(row[i]) for row in cells) for i in range(len(header))]
