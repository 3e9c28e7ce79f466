"""``pirl compare A B``: two evaluations side by side, and their difference over the episodes that both played."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pirl_core.commands.runs import place
from pirl_core.errors import UserError
from pirl_core.report.tables import (
    aligned,
    difference,
    interval,
    interval_of,
    seed_note,
    shown,
    split_title,
)

if TYPE_CHECKING:
    import pandas as pd

    from pirl_core.facts import Score

SUMMARY = "two evaluations side by side, with their paired difference and its interval"
EVALUATIONS = Path("outputs/evaluate")
TABLE = "episodes.parquet"
EPISODE = ["split", "task", "env_seed"]
Row = dict[str, Any]


class Result(NamedTuple):
    """One side. files: a table of episodes per training seed; frame: their rows. score: what they count for."""

    name: str
    files: list[Path]
    frame: "pd.DataFrame"
    score: "Score"

    @property
    def seeds(self) -> list[int]:
        return sorted(int(seed) for seed in self.frame["seed"].unique())


class Found(NamedTuple):
    """Tables of episodes. rows: '' for all that they hold, else whose: experiment-method, or with -seed."""

    files: list[Path]
    rows: str = ""


def find(name: str) -> Found:
    """The tables of episodes that ``name`` means.

    It may be an evaluation (metaworld-flow_sde-0), one without its seed (metaworld-flow_sde: all seeds), the path of
    such a folder, here or in another clone, or a table itself; one of a run apart (3f2a:metaworld-flow_sde); and rows
    of a table of results, as if they were a folder beside it (results/laptop/metaworld-flow_sde). Raises UserError
    where there is no such file.
    """
    name = place(name.removeprefix("evaluate@"))
    for path in (Path(name), EVALUATIONS / name):
        if path.is_file():
            return Found([path])
        if (path / TABLE).is_file():
            return Found([path / TABLE])
        runs = re.compile(rf"{re.escape(path.name)}-\d+")
        tables = [table for table in path.parent.glob(f"*/{TABLE}") if runs.fullmatch(table.parent.name)]
        if tables:
            return Found(sorted(tables, key=lambda table: int(table.parent.name.rpartition("-")[2])))
    if (Path(name).parent / TABLE).is_file():
        return Found([Path(name).parent / TABLE], Path(name).name)
    known = sorted(table.parent.name for table in EVALUATIONS.glob(f"*/{TABLE}"))
    have = f"{EVALUATIONS} has {', '.join(known)}" if known else f"{EVALUATIONS} has none; make reproduce makes them"
    if kept := sorted(str(table.parent) for table in Path("results").glob(f"*/{TABLE}")):
        have += f"; committed are {', '.join(kept)}"
    raise UserError(f"{name}: neither an evaluation nor a folder with {TABLE}; {have}")


def select(frame: "pd.DataFrame", rows: str, name: str, table: Path) -> "pd.DataFrame":
    """Of a table of several evaluations those rows. Raises UserError, with what there is, where there are none."""
    names = frame["experiment"] + "-" + frame["method"]
    with_seeds = names + "-" + frame["seed"].map(str)
    found = frame[(names == rows) | (with_seeds == rows)]
    if found.empty:
        seeds = {str(own): sorted(set(part["seed"])) for own, part in frame.groupby(names)}
        has = "; ".join(f"{own}, training seeds {', '.join(map(str, those))}" for own, those in seeds.items())
        raise UserError(f"{name}: name an evaluation in {table}, such as {table.parent / min(seeds)}; it has {has}")
    return found


def load(name: str) -> Result:
    import pandas as pd

    from pirl_core.evaluation.scores import score_of, values
    from pirl_core.report.inputs import read_table

    files, rows = find(name)
    frame = pd.concat([read_table(file) for file in files], ignore_index=True)
    if frame.empty:
        raise UserError(f"{name}: holds no episode")
    if rows or len(frame[["experiment", "method"]].drop_duplicates()) > 1:
        frame = select(frame, rows, name, files[0])
    if frame.duplicated(["seed", *EPISODE]).any():
        raise UserError(f"{name}: holds an episode twice (same training seed, split, task and env_seed)")
    score = score_of(frame)
    return Result(name, files, frame.assign(value=values(frame, score)), score)


def pair(a: Result, b: Result) -> "pd.DataFrame":
    """Rows of episodes that both played: split, task, env_seed, seed, value_a, value_b, the success or the return.

    Runs of the same training seed are compared; with one training seed on each side, these two, whatever they are.
    Raises UserError where nothing is common.
    """
    if a.score != b.score:
        raise UserError(f"{a.name} counts by {a.score} and {b.name} by {b.score}: compare two of a kind")
    left, right = (side.frame[["seed", *EPISODE, "value"]] for side in (a, b))
    if len(a.seeds) == len(b.seeds) == 1:
        left, right = left.assign(seed=0), right.assign(seed=0)
    elif not set(a.seeds) & set(b.seeds):
        raise UserError(
            f"{a.name} has training seeds {a.seeds} and {b.name} has {b.seeds}: none in common; compare single seeds"
        )
    pairs = left.merge(right, on=["seed", *EPISODE], suffixes=("_a", "_b"), validate="one_to_one")
    if pairs.empty:
        raise UserError(
            f"{a.name} and {b.name} have no episode in common (same split, task and env_seed): they were evaluated "
            "under different protocols"
        )
    return pairs.sort_values(["seed", *EPISODE], ignore_index=True)


def compare(a: Result, b: Result, tasks: bool) -> list[Row]:
    """One row a split, `id` first, with ``tasks`` one a split and task; the difference is B − A."""
    keys = ["split", "task"] if tasks else ["split"]
    groups = [{_tuple(key): part for key, part in f.groupby(keys)} for f in (a.frame, b.frame, pair(a, b))]
    order = sorted({*groups[0], *groups[1]}, key=lambda key: (key[0] != "id", *key))
    return [_row(key, a.score, *(group.get(key) for group in groups)) for key in order]


def _tuple(key: Any) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def _row(
    key: tuple[str, ...],
    score: "Score",
    a: "pd.DataFrame | None",
    b: "pd.DataFrame | None",
    pairs: "pd.DataFrame | None",
) -> Row:
    from pirl_core.evaluation.scores import difference_of, grid_in, mean_of

    unit = {"score": score} if score == "return" else {}
    row: Row = {"split": key[0], "task": key[1] if len(key) > 1 else None}
    for side, frame in (("a", a), ("b", b)):
        row[side] = None
        if frame is not None:
            grid = grid_in(frame, frame["value"].to_numpy(float))
            rate = mean_of(grid, score)
            counts = {} if unit else {"successes": int(frame["success"].sum())}
            row[side] = {"n": grid.n, **counts, "rate": float(rate.mean)}
            row[side] |= {"low": float(rate.low), "high": float(rate.high), "single_seed": grid.single_seed, **unit}
        row[f"unpaired_{side}"] = (0 if frame is None else len(frame)) - (0 if pairs is None else len(pairs))
    row["pairs"] = 0 if pairs is None else len(pairs)
    row["difference"] = None
    if pairs is not None:
        of_a, of_b = (pairs[name].to_numpy(float) for name in ("value_a", "value_b"))
        grid = grid_in(pairs, of_b - of_a)
        found = difference_of(grid, score)
        row["difference"] = {"mean": float(found.mean), "low": float(found.low), "high": float(found.high)}
        row["difference"] |= {"single_seed": grid.single_seed, **unit}
    return row


def render(a: Result, b: Result, rows: list[Row]) -> str:
    """The sides and a table; its columns task and unpaired only where they say something."""
    tasks = rows[0]["task"] is not None
    unpaired = any(row["unpaired_a"] or row["unpaired_b"] for row in rows)
    of, unit = ("return", "return") if a.score == "return" else ("%", "points")
    header = ["split", *(["task"] if tasks else []), f"A {of}", "95 %", "n", f"B {of}", "95 %", "n"]
    header += [f"B − A, {unit}", "95 %", "pairs", *(["unpaired"] if unpaired else [])]
    cells = [
        [
            split_title(row["split"]),
            *([row["task"]] if tasks else []),
            *_side(row["a"]),
            *_side(row["b"]),
            *_difference(row["difference"]),
            str(row["pairs"]),
            *([f"{row['unpaired_a']} + {row['unpaired_b']}"] if unpaired else []),
        ]
        for row in rows
    ]
    lines = []
    for label, side in (("A", a), ("B", b)):
        several = "s" if len(side.seeds) > 1 else ""
        lines.append(f"{label}  {side.name}, training seed{several} {', '.join(map(str, side.seeds))}")
    note = seed_note(part for row in rows for part in (row["a"], row["b"], row["difference"]) if part)
    return "\n".join([*lines, "", aligned(header, cells), *([note] if note else [])])


def _side(side: Row | None) -> list[str]:
    if not side:
        return ["–", "–", "0"]
    limits = {**side, "ci_low": side["low"], "ci_high": side["high"]}
    return [shown(side["rate"], side), interval_of(limits), str(side["n"])]


def _difference(found: Row | None) -> list[str]:
    if not found:
        return ["–", "–"]
    show = difference(found)
    return [show(found["mean"]), interval(found["low"], found["high"], found["single_seed"], show)]


def add_arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """Returns the arguments that name an evaluation, for shell completion."""
    what = (
        "evaluation (metaworld-flow_sde-0), all its seeds (metaworld-flow_sde), those of a run that pirl runs lists "
        "(3f2a:metaworld-flow_sde), the folder of its episodes.parquet, or its rows in results "
        "(results/laptop/metaworld-flow_sde)"
    )
    names = [
        parser.add_argument("a", metavar="A", help=f"before: an {what}, here or in another clone"),
        parser.add_argument("b", metavar="B", help="after: the same; the difference is B − A"),
    ]
    parser.add_argument("--tasks", action="store_true", help="a row for every task of every split")
    parser.add_argument("--json", action="store_true", help="the numbers as JSON, rates and differences in [0, 1]")
    return names


def run(args: argparse.Namespace) -> None:
    a, b = load(args.a), load(args.b)
    rows = compare(a, b, args.tasks)
    if args.json:
        sides = {
            label: {"name": side.name, "files": [str(file) for file in side.files], "seeds": side.seeds}
            for label, side in (("a", a), ("b", b))
        }
        print(json.dumps({**sides, "rows": rows}, ensure_ascii=False, indent=1))
    else:
        print(render(a, b, rows))
