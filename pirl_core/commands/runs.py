"""``pirl runs``: what was tried. Flows with other values than params.yaml's run in folders apart, below ``.pirl/runs``;
here they stand beside the repository's own run. Writes nothing."""

import argparse
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pirl_core.commands.inputs import needs
from pirl_core.commands.status import RUNS, WIDTH, age
from pirl_core.commands.targets import stage_names
from pirl_core.errors import UserError
from pirl_core.params.file import check_params
from pirl_core.params.sections import Params
from pirl_core.readers.strict_yaml import read_yaml
from pirl_core.readers.text import read_json
from pirl_core.report.folder import results_of
from pirl_core.report.tables import aligned, interval_of, score_title, seed_note, shown
from pirl_core.stages.lock import LOCKS
from pirl_core.training.track import STATUS

SUMMARY = "what was tried with other values: how they differ from params.yaml, how far each run is, its success"
OWN = "params.yaml"
EVALUATIONS = Path("outputs/evaluate")
_LONGEST = 60
Row = dict[str, Any]


def folders(root: Path) -> list[Path]:
    """Of the runs apart, by name."""
    return sorted(path for path in (root / RUNS).glob("*") if path.is_dir())


def find_run(root: Path, prefix: str) -> Path:
    """The folder whose name is ``prefix``, or alone begins so. Raises UserError, naming those that there are."""
    names = [folder.name for folder in folders(root)]
    found = [name for name in names if name == prefix] or [name for name in names if prefix and name.startswith(prefix)]
    if len(found) == 1:
        return root / RUNS / found[0]
    what = f"several runs begin so: {', '.join(found)}" if found else f"no run in {RUNS} begins so; there is "
    raise UserError(f"{prefix}: {what}" + ("" if found else ", ".join(names) or "none"))


def place(name: str) -> str:
    """``RUN:EVALUATION`` as the path of that run's evaluation; any other name of an evaluation as it is.

    Raises UserError where there is no such run, or that run has no such evaluation.
    """
    prefix, colon, evaluation = name.partition(":")
    if not colon or "/" in name or Path(name).exists():
        return name
    home = find_run(Path(), prefix) / EVALUATIONS
    evaluation = evaluation.removeprefix("evaluate@")
    known = sorted(table.parent.name for table in home.glob("*/episodes.parquet"))
    if not any(evaluation in (each, each.rpartition("-")[0]) for each in known):
        raise UserError(f"{name}: {home} has no such evaluation; it has {', '.join(known) or 'none yet'}")
    return str(home / evaluation)


def read_runs(root: Path, now: float) -> list[Row]:
    """The repository's own run, then those apart, last used first. Raises UserError where params.yaml cannot be read.

    problem: why nothing more is known of it; "" where all is well. used: seconds since then. differs, lacks: from the
    repository's params.yaml, by dotted keys. done, total: of its stages.
    """
    own = read_yaml(root / OWN)
    apart = [_read(folder, folder.name, own, now) for folder in folders(root)]
    return [_read(root, OWN, own, now), *sorted(apart, key=lambda run: run["used"] or 0.0)]


def _read(folder: Path, name: str, own: Mapping[str, Any], now: float) -> Row:
    run: Row = {"run": name, "folder": str(folder), "problem": "", "used": _used(folder, now)}
    run |= {"differs": {}, "lacks": [], "done": 0, "total": 0, "evaluations": []}
    try:
        if not (folder / "params.yaml").exists():
            raise UserError("half made, it has no params.yaml; the same `make flow` completes it")
        content = read_yaml(folder / "params.yaml")
        params = check_params(content, "its params.yaml")
        run["differs"], run["lacks"] = differing(own, content)
        run["done"], run["total"] = len(done_stages(folder, params)), len(stage_names(params))
        run["evaluations"] = [
            _evaluation(folder, experiment, method, params.seeds)
            for experiment in params.experiments
            for method in params.policies
        ]
    except (UserError, OSError) as error:
        run["problem"] = str(error)
    return run


def _used(folder: Path, now: float) -> float | None:
    """Seconds since a flow or a stage last took its lock there or told its status; else since params.yaml was made."""
    times = []
    for path in (*(folder / LOCKS).glob("*"), *(folder / STATUS).glob("*.json")):
        with suppress(OSError):
            times.append(path.stat().st_mtime)
    with suppress(OSError):
        times = times or [(folder / "params.yaml").stat().st_mtime]
    return max(0.0, now - max(times)) if times else None


def differing(own: Mapping[str, Any], other: Mapping[str, Any], above: str = "") -> tuple[dict[str, Any], list[str]]:
    """Dotted keys with ``other``'s value where ``own`` has none or another; and those that only ``own`` has."""
    found: dict[str, Any] = {}
    lacks = []
    for key, value in other.items():
        mine = own.get(key)
        if isinstance(value, dict) and isinstance(mine, dict):
            inner, lacking = differing(mine, value, f"{above}{key}.")
            found |= inner
            lacks += lacking
        elif key not in own or mine != value:
            found[f"{above}{key}"] = value
    return found, lacks + [f"{above}{key}" for key in own if key not in other]


def done_stages(folder: Path, params: Params) -> set[str]:
    """The stages that ran to their end with these parameters, as did all that they need. Of changes in the code, and
    in files that stages read, only DVC knows."""
    done: set[str] = set()
    for name in stage_names(params):
        if done.issuperset(needs(params, name)) and _ran(folder, params, name):
            done.add(name)
    return done


def _ran(folder: Path, params: Params, name: str) -> bool:
    from pirl_core.report.inputs import unlike

    kind, _, rest = name.partition("@")
    if kind == "report":
        return (results_of(params.scale, folder) / "metrics.json").is_file()
    with suppress(UserError):
        recorded = read_json(folder / f"outputs/run/{kind}/{rest}.json", "").get("params") or {}
        return bool(recorded) and not unlike(params, kind, rest, recorded)
    return False


def _evaluation(folder: Path, experiment: str, method: str, seeds: Iterable[int]) -> Row:
    """Success in distribution over the training seeds that were evaluated so far; n = 0 where none was."""
    row: Row = {"experiment": experiment, "method": method, "problem": "", "seeds": [], "n": 0, "successes": 0}
    row |= {"rate": None, "low": None, "high": None, "single_seed": False}
    tables = {seed: folder / EVALUATIONS / f"{experiment}-{method}-{seed}/episodes.parquet" for seed in seeds}
    tables = {seed: table for seed, table in tables.items() if table.exists()}
    if tables:
        try:
            row |= {"seeds": list(tables), **_success(tables.values())}
        except (UserError, OSError, ValueError) as error:
            row["problem"] = str(error)
    return row


def _success(tables: Iterable[Path]) -> Row:
    """Raises UserError for tables that are broken or hold no episode of split id; ValueError for an episode twice."""
    import pandas as pd

    from pirl_core.evaluation.scores import grid_in, mean_of, score_of, values
    from pirl_core.report.inputs import read_table

    frame = pd.concat([read_table(table) for table in tables], ignore_index=True)
    frame = frame[frame["split"] == "id"]
    if frame.empty:
        raise UserError("no episode in distribution")
    score = score_of(frame)
    grid = grid_in(frame, values(frame, score))
    found = mean_of(grid, score)
    row: Row = {"n": grid.n, "successes": int(frame["success"].sum()), "single_seed": grid.single_seed}
    row |= {"score": score} if score == "return" else {}
    return {**row, "rate": float(found.mean), "low": float(found.low), "high": float(found.high)}


def render(runs: list[Row], everything: bool) -> str:
    """A table with a row for each evaluation, what differs below each run; then a line for each run that is broken."""
    evaluated = [row for run in runs for row in run["evaluations"] if row["n"]]
    header = ["run", "used", "state", "evaluation", score_title(evaluated), "95 % interval", "n"]
    cells, notes = [], []
    whole = [run for run in runs if not run["problem"]]
    for run in whole:
        first = [run["run"], age(run["used"]), _state(run)]
        # Risk-sensitive RL has none.
        for row in run["evaluations"] or [None]:
            cells.append([*first, *(_cells(row) if row else ["–"] * 4)])
            notes.append([f"    {row['problem']}"] if row and row["problem"] else [])
            first = ["", "", ""]
        if run["run"] != OWN:
            notes[-1] += [f"    {line}" for line in _difference(run, everything)]
    lines = aligned(header, cells).splitlines()
    shown = lines[:2] if whole else []
    for line, below in zip(lines[2:], notes, strict=True):
        shown += [line, *below]
    mark = seed_note(row for run in whole for row in run["evaluations"] if row["n"])
    broken = [f"{run['run']}: broken: {' '.join(run['problem'].split())}" for run in runs if run["problem"]]
    nothing = ["Nothing was tried yet; make flow SET=rl.actor_lr=1e-5 would."] if len(runs) == 1 else []
    return "\n".join([*shown, *([mark] if mark else []), *broken, *nothing])


def _state(run: Row) -> str:
    return "done" if run["done"] == run["total"] else f"{run['done']}/{run['total']}"


def _cells(row: Row) -> list[str]:
    name = f"{row['experiment']}-{row['method']}"
    if not row["n"]:
        return [name, "–", "–", "–"]
    limits = {**row, "ci_low": row["low"], "ci_high": row["high"]}
    return [name, shown(row["rate"], row), interval_of(limits), str(row["n"])]


def _difference(run: Row, everything: bool) -> list[str]:
    """As ``SET`` takes it; all on lines of their own, or as much as fits on one."""
    parts = [f"{key}={_written(value)}" for key, value in run["differs"].items()]
    parts += [f"without {key}" for key in run["lacks"]]
    if everything or not parts:
        return parts or ["the same as params.yaml"]
    line = _cut(parts[0])
    for number, part in enumerate(parts[1:], 1):
        longer = f"{line}  {_cut(part)}"
        if len(longer) > WIDTH - 20:
            return [f"{line}  … {len(parts) - number} more: --all"]
        line = longer
    return [line]


def _written(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every key that differs, whole, on a line of its own")
    parser.add_argument("--json", action="store_true", help="the same as a JSON list, for programs; rates in [0, 1]")


def run(args: argparse.Namespace) -> None:
    runs = read_runs(Path(), time.time())
    print(json.dumps(runs, ensure_ascii=False, indent=1) if args.json else render(runs, args.all))
