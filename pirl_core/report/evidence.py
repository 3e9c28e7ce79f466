"""What the runs of a twin say: figures with their intervals, and curves, asked of results/ alone.

A twin is the same rows of tables at one size of models: ``paper`` or ``paper_small``. It is run in parts, each a preset
with a folder of results. Where several parts have the same run (experiment, method, training seed), which has equal
parameters in all, its episodes and curves are those of the first part, by name.
"""

from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from pirl_core.errors import UserError
from pirl_core.evaluation.stats import Estimate, difference_interval, grid_of, mean_interval
from pirl_core.facts import Task, facts_of
from pirl_core.params.preset import load_preset, preset_names
from pirl_core.params.sections import Params
from pirl_core.readers.tables import NUMBER, TEXT, WHOLE
from pirl_core.readers.tables import read_table as read_columns
from pirl_core.readers.text import read_json
from pirl_core.readers.typed import Open, check
from pirl_core.report.inputs import read_table
from pirl_core.report.twins import EACH, is_part

ROW = ["experiment", "method", "seed"]
PAIR = ["experiment", "split", "task", "env_seed", "seed"]
CURVES = {
    "stage": TEXT, "experiment": TEXT, "method": TEXT, "seed": WHOLE, "metric": TEXT, "step": WHOLE, "value": NUMBER,
}  # fmt: skip
REMEDY = "delete that folder and reproduce its scale"


class _Environment(Open):
    benchmark: str | None = None


class _Sections(Open):
    env: _Environment = _Environment()


class _Record(Open):
    stage: str
    name: str
    params: _Sections | None = None


class _Runs(Open):
    """Of run.json what is read here."""

    records: list[_Record]


class Query(NamedTuple):
    """A figure. experiments, splits: pooled. group: tasks of that group of the benchmark's facts only; ``each``: the
    unweighted mean of its groups.

    of: ``success`` (share), ``steps`` (mean length of episodes in simulator steps), of sequences ``average`` (subtasks
    solved) and ``reached_1`` to ``reached_5`` (share with at least so many solved), ``gain`` (success less that of
    SFT on the same episodes, in [-1, 1]).
    """

    experiments: tuple[str, ...]
    method: str
    splits: tuple[str, ...] = ("id",)
    group: str | None = None
    of: str = "success"


class Answer(NamedTuple):
    """A mean with its 95 % interval. n: episodes, or pairs; seeds: training seeds of the unit that has fewest."""

    mean: float
    low: float
    high: float
    n: int
    seeds: int


class Evidence(NamedTuple):
    """episodes: one row each (COLUMNS of `inputs`, and scale); curves: CURVES, and scale; records: of run.json, each
    with its scale; scales: parts that have results."""

    twin: str
    episodes: pd.DataFrame
    curves: pd.DataFrame
    records: list[dict[str, Any]]
    scales: tuple[str, ...]


def parts_of(twin: str) -> list[str]:
    """Names of the presets that make up a twin."""
    return [name for name in preset_names() if is_part(name, twin)]


@cache
def _presets(twin: str) -> list[Params]:
    return [load_preset(name) for name in parts_of(twin)]


def listed_in(twin: str, experiment: str, method: str) -> list[str]:
    """The parts that run the experiment with the method."""
    return [params.scale for params in _listing(twin, experiment, method)]


def listed_by_seed(twin: str, experiment: str, method: str) -> dict[int, list[str]]:
    """The same, for each of the training seeds that they have."""
    found: dict[int, list[str]] = {}
    for params in _listing(twin, experiment, method):
        for seed in params.seeds:
            found.setdefault(seed, []).append(params.scale)
    return found


def _listing(twin: str, experiment: str, method: str) -> list[Params]:
    return [p for p in _presets(twin) if experiment in p.experiments and method in p.policies]


def read_evidence(results: Path, twin: str) -> Evidence:
    """All that the parts of ``twin`` left below ``results``; parts without a folder, and curves, may be missing.

    Raises UserError for files that cannot be read, and for a run that two parts made with different parameters.
    """
    folders = sorted(path.parent for path in results.glob("*/episodes.parquet") if is_part(path.parent.name, twin))
    episodes = [_read_episodes(folder) for folder in folders]
    curves = [
        read_columns(path, REMEDY, CURVES).to_pandas().assign(scale=folder.name)
        for folder in folders
        if (path := folder / "curves.parquet").exists()
    ]
    records = [
        {**record, "scale": folder.name}
        for folder in folders
        if (path := folder / "run.json").exists()
        for record in _read_records(path)
    ]
    _check_alike(results, records)
    return Evidence(
        twin,
        _first(episodes, [*ROW, "split"], [*PAIR, "method", "success", "steps", "reward"]),
        _first(curves, ["stage", *ROW], list(CURVES)),
        records,
        tuple(folder.name for folder in folders),
    )


def ask(evidence: Evidence, query: Query) -> Answer | str:
    """The figure, or in words why there is none, with the run that is missing.

    Units are experiment × split, and × group for ``each``. Where all have equally many episodes of the same training
    seeds the interval is that of one grid, with strata (experiment, split, task). Where not, the unweighted mean of
    the units has the mean of their limits: half-widths add as if the units were fully dependent, which is on the safe
    side. Raises UserError for a task that the benchmark does not know, and where no record names the benchmark.
    """
    rows = rows_of(evidence, query)
    return rows if isinstance(rows, str) else answer(rows, query.of == "gain", query.group == EACH)


def answer(rows: pd.DataFrame, differences: bool, each_group: bool = False) -> Answer:
    """Of rows of `rows_of` as `ask` pools them. differences: values are -1, 0 or 1, of pairs."""
    parts = [part for _, part in rows.groupby(["experiment", "split", *(["group"] if each_group else [])])]
    alike = len({len(part) for part in parts}) == len({frozenset(part["seed"]) for part in parts}) == 1
    estimates = [_estimate(frame, differences) for frame in ([rows] if alike else parts)]
    mean, low, high = (float(np.mean([getattr(e, name) for e in estimates])) for name in Estimate._fields)
    return Answer(mean, low, high, len(rows), min(part["seed"].nunique() for part in parts))


def rows_of(evidence: Evidence, query: Query) -> pd.DataFrame | str:
    """An episode, or pair, a row: PAIR, group, value, longest (the largest that value can be). Or why there is none."""
    mine = _episodes(evidence, query)
    if isinstance(mine, str) or query.of != "gain":
        return mine
    sft = _episodes(evidence, query._replace(method="sft", of="success"))
    if isinstance(sft, str):
        return sft
    return paired(sft, mine, f"{query.method} and sft of {', '.join(query.experiments)}")


def paired(before: pd.DataFrame, after: pd.DataFrame, names: str) -> pd.DataFrame | str:
    """Rows of `rows_of` on both sides; value: after - before, of the same episode and training seed."""
    pairs = before.merge(after, on=[*PAIR, "group"], suffixes=("_before", ""), validate="one_to_one")
    missing = {*zip(before["experiment"], before["split"], strict=True)} - {
        *zip(pairs["experiment"], pairs["split"], strict=True)
    }
    if missing or pairs.empty:
        where = " ".join(min(missing, default=()))
        return f"{names} have no episode of the same training seed in common{f' in {where}' if where else ''}"
    return pairs.assign(value=pairs["value"] - pairs["value_before"]).drop(columns=["value_before", "longest_before"])


def curve(
    evidence: Evidence, experiment: str, method: str, metric: str, stage: str = "rl"
) -> dict[int, list[tuple[float, float]]]:
    """(step, value) points of a metric, in the order of steps, by training seed; {} where nothing was recorded.

    stage: ``rl``, or ``sft``, whose curves are of no method.
    """
    frame = evidence.curves
    own = frame["method"] == ("" if stage == "sft" else method)
    here = frame[own & (frame["stage"] == stage) & (frame["experiment"] == experiment) & (frame["metric"] == metric)]
    rows = here.sort_values("step")
    points: dict[int, list[tuple[float, float]]] = {seed: [] for seed in sorted(set(rows["seed"].tolist()))}
    for seed, step, value in zip(rows["seed"].tolist(), rows["step"].tolist(), rows["value"].tolist(), strict=True):
        points[seed].append((float(step), float(value)))
    return points


def absent(evidence: Evidence, experiment: str, method: str) -> str:
    """That a run is missing, and what makes it."""
    parts = listed_in(evidence.twin, experiment, method)
    remedy = f"make reproduce SCALE={parts[0]}" if parts else f"no preset of {evidence.twin} has it"
    return f"no run of {experiment} {method}: {remedy}"


def _read_episodes(folder: Path) -> pd.DataFrame:
    path = folder / "episodes.parquet"
    frame = read_table(path).assign(scale=folder.name)
    if frame.duplicated([*PAIR, "method"]).any():
        raise UserError(f"{path} holds an episode twice; {REMEDY}")
    return frame


def _read_records(path: Path) -> list[dict[str, Any]]:
    content = read_json(path, REMEDY)
    check(_Runs, content, str(path), REMEDY)
    records: list[dict[str, Any]] = content["records"]
    return records


def _estimate(rows: pd.DataFrame, differences: bool) -> Estimate:
    """As one grid of the strata (experiment, split, task)."""
    strata = rows.groupby(["experiment", "split", "task"]).ngroup().to_numpy()
    grid = grid_of(rows["seed"].to_numpy(), strata, rows["env_seed"].to_numpy(), rows["value"].to_numpy())
    return difference_interval(grid) if differences else mean_interval(grid, int(rows["longest"].max()))


def _episodes(evidence: Evidence, query: Query) -> pd.DataFrame | str:
    frame = evidence.episodes
    here = frame[frame["experiment"].isin(query.experiments) & (frame["method"] == query.method)]
    for experiment in query.experiments:
        splits = set(here.loc[here["experiment"] == experiment, "split"])
        if not splits:
            return absent(evidence, experiment, query.method)
        if lacking := [split for split in query.splits if split not in splits]:
            return f"{experiment} {query.method} was not evaluated on {lacking[0]}"
    here = here[here["split"].isin(query.splits)]
    benchmarks = _benchmarks(evidence)
    known = {key: _task(benchmarks, *key) for key in {*zip(here["experiment"], here["task"], strict=True)}}
    facts = [known[key] for key in zip(here["experiment"], here["task"], strict=True)]
    here = here.assign(group=[task.group for task in facts], length=[task.length for task in facts])
    if query.group not in (None, EACH):
        here = here[here["group"] == query.group]
        if lacking := [name for name in query.experiments if name not in set(here["experiment"])]:
            return f"{lacking[0]} {query.method} has no task of group {query.group}"
    return _valued(here, query)


def _valued(here: pd.DataFrame, query: Query) -> pd.DataFrame | str:
    if query.of in ("success", "gain"):
        value, longest = here["success"], 1
    elif query.of == "steps":
        # The bound only says how an interval bends near it: the longest that was played will do.
        value, longest = here["steps"], int(here["steps"].max())
    elif (here["length"] == 1).any():
        return f"episodes of {', '.join(query.experiments)} are no sequences of subtasks"
    elif query.of == "average":
        value, longest = here["reward"].round(), int(here["length"].max())
    elif query.of.startswith("reached_"):
        value, longest = here["reward"].round() >= int(query.of.removeprefix("reached_")), 1
    else:
        raise ValueError(f"of = {query.of!r}: success, steps, average, reached_1 to reached_5 or gain")
    return here[[*PAIR, "group"]].assign(value=value.astype(float), longest=max(longest, 1))


def _task(benchmarks: dict[str, str], experiment: str, task: str) -> Task:
    if experiment not in benchmarks:
        raise UserError(f"run.json has no record of {experiment} that names its benchmark; {REMEDY}")
    try:
        return facts_of(benchmarks[experiment]).task(task)
    except LookupError as error:
        raise UserError(
            f"{experiment}: its benchmark {benchmarks[experiment]} is none that can be found: {error}"
        ) from None


def _benchmarks(evidence: Evidence) -> dict[str, str]:
    """experiment -> its benchmark, as the runs recorded it."""
    found = {}
    for record in evidence.records:
        if benchmark := (record.get("params") or {}).get("env", {}).get("benchmark"):
            found[record["name"].split("-")[0]] = benchmark
    return found


def _first(frames: list[pd.DataFrame], key: list[str], columns: list[str]) -> pd.DataFrame:
    """Frames of the parts in one; what shares ``key`` comes of the first part that has it."""
    if not frames:
        return pd.DataFrame(columns=[*columns, "scale"])
    frame = pd.concat(frames, ignore_index=True)
    return frame[frame["scale"] == frame.groupby(key)["scale"].transform("min")].reset_index(drop=True)


def _check_alike(results: Path, records: list[dict[str, Any]]) -> None:
    """What is evaluated may differ from part to part, what is trained may not."""

    def run(record: dict[str, Any]) -> tuple[str, str]:
        return record["stage"], record["name"]

    trained = (record for record in records if record["stage"] != "evaluate" and record.get("params"))
    for (stage, name), same in groupby(sorted(trained, key=run), key=run):
        first, *others = same
        for other in others:
            for section, values in first["params"].items():
                theirs = other["params"].get(section, {})
                if differ := [key for key in values if key in theirs and values[key] != theirs[key]]:
                    key = differ[0]
                    raise UserError(
                        f"{results / other['scale']}: {stage} {name} ran with {section}.{key} = {theirs[key]}, in "
                        f"{first['scale']} with {values[key]}; run one of the two parts again"
                    )
