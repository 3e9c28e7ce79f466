"""What the report reads: only the folders that params.yaml lists, so leftovers of removed experiments never show up."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pandas as pd
from pydantic import AfterValidator, Field

from pirl_core import named
from pirl_core.errors import UserError
from pirl_core.params.file import resolve, resolve_risk
from pirl_core.params.sections import Params, exploring_labels, split_label
from pirl_core.readers.hub import COMMIT
from pirl_core.readers.paths import bare
from pirl_core.readers.tables import MAYBE, NUMBER, TEXT, WHOLE, column_names
from pirl_core.readers.tables import read_table as read_columns
from pirl_core.readers.text import read_json, read_json_lines, read_json_list
from pirl_core.readers.typed import Open, check

COLUMNS = {
    "experiment": TEXT,
    "method": TEXT,
    "seed": WHOLE,
    "split": TEXT,
    "task": TEXT,
    "env_seed": WHOLE,
    "success": MAYBE,  # nothing where the task has none, and its return counts
    "steps": WHOLE,
    "reward": NUMBER,
}
REMEDY = "delete its folder and run make reproduce"
TRAINING = ("sft", "rl", "risk")
PINNED = ("dataset_revision", "revision")
NUMBERS = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?|\bnan\b|\binf\b")
Curve = dict[str, list[tuple[float, float]]]  # metric name -> (step, value) points


Step = Annotated[int, Field(ge=0, le=10**12)]
EpisodeSeed = Annotated[int, Field(ge=0, lt=2**53)]
"""As JSON's numbers hold it exactly."""
Amount = Annotated[float, Field(ge=0, le=1e15)]


def _part_name(name: str) -> str:
    if not named.NAME.fullmatch(name) or len(name) > 255:
        raise ValueError(f"'{name[:60]}' is no name of a module")
    return name


PartName = Annotated[str, AfterValidator(_part_name)]


class _Line(Open):
    """Of metrics.jsonl; the other keys are metrics."""

    step: Step


class _Warning(Open):
    step: Step
    text: str


class _Video(Open):
    file: Annotated[str, AfterValidator(bare)]
    split: str
    task: str
    success: bool
    episode: EpisodeSeed
    returned: Annotated[float | None, Field(alias="return")] = None


class _Machine(Open):
    cpu: str | None = None
    cores: Step | None = None
    memory_mib: Amount | None = None
    gpus: list[str] | None = None


class _Code(Open):
    """What a run's sources were: a digest, and the parts found by name that it is of."""

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]+$")]
    parts: dict[str, list[PartName]]


class _Record(Open):
    """Of a run, as `stages.cli` writes it; older ones lack keys."""

    wall_seconds: Amount | None = None
    peak_memory_mib: Amount | None = None
    machine: _Machine | str | None = None
    revision: str | None = None
    edits: str | None = None
    code: _Code | None = None
    python: str | None = None
    versions: dict[str, str] | None = None
    params: dict[str, dict[str, Any]] | None = None


class Warned(NamedTuple):
    """Warnings of one run that say the same but for their numbers. text: the newest."""

    stage: str
    name: str
    steps: list[int]
    text: str


class Clip(NamedTuple):
    """One video of an evaluated episode. returned: its return, where that is what counts."""

    path: Path
    split: str
    task: str
    success: bool
    episode: int
    returned: float | None = None


def listed_splits(params: Params, experiment: str) -> list[str]:
    """Labels of an experiment's evaluation sets, `id` first, the rest in the order of the file."""
    names = list(resolve(params, experiment).evaluate.splits)
    return [split_label(name) for name in sorted(names, key=lambda name: name != "id")]


def listed_exploring(params: Params, experiment: str, policy: str) -> list[str]:
    """Labels of what a policy of the experiment also played with exploration noise."""
    return exploring_labels(resolve(params, experiment).evaluate, policy)


def stage_names(params: Params) -> list[tuple[str, str]]:
    """(stage, name) of everything that the parameters ask for, in the order of the pipeline."""
    experiments, seeds, risk = list(params.experiments), params.seeds, params.risk
    methods = [policy for policy in params.policies if policy != "sft"]
    return [
        *[("curate", e) for e in experiments],
        *[("sft", f"{e}-{s}") for e in experiments for s in seeds],
        *[("rl", f"{e}-{m}-{s}") for e in experiments for m in methods for s in seeds],
        *[("evaluate", f"{e}-{p}-{s}") for e in experiments for p in params.policies for s in seeds],
        *[("risk", f"{e}-{m}-{s}") for e in risk.experiments for m in risk.methods for s in seeds],
    ]


def read_episodes(outputs: Path, params: Params) -> pd.DataFrame:
    """All listed per-episode tables as one frame. Raises UserError for a missing, broken or foreign table."""
    frames = []
    for experiment in params.experiments:
        splits = listed_splits(params, experiment)
        for policy in params.policies:
            for seed in params.seeds:
                path = outputs / "evaluate" / f"{experiment}-{policy}-{seed}" / "episodes.parquet"
                frame = read_table(path)
                played = [*splits, *listed_exploring(params, experiment, policy)]
                _check(frame, path, {"experiment": experiment, "method": policy, "seed": seed}, played)
                frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """The COLUMNS of one table of episodes, whose reward results/ call return.

    Raises UserError for a missing or broken one, and where values are.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; run make stage STAGE=evaluate@{path.parent.name} first")
    names = column_names(path, REMEDY)
    is_result = "return" in names and "reward" not in names
    columns = {"return" if name == "reward" and is_result else name: kind for name, kind in COLUMNS.items()}
    frame: pd.DataFrame = read_columns(path, REMEDY, columns).to_pandas()
    return frame.rename(columns={"return": "reward"})


def _check(frame: pd.DataFrame, path: Path, identity: dict[str, Any], splits: list[str]) -> None:
    for name, value in identity.items():
        if (frame[name] != value).any():
            raise UserError(f"{path}: column '{name}' must be {value!r} throughout: {REMEDY}")
    found = set(frame["split"])
    if found != set(splits):
        raise UserError(f"{path} holds the splits {sorted(found)} but params.yaml asks for {splits}: {REMEDY}")
    if frame.duplicated(["split", "task", "env_seed"]).any():
        raise UserError(f"{path} holds an episode twice (same split, task and env_seed): {REMEDY}")


def read_curve(path: Path) -> Curve:
    """Points of every metric in a metrics.jsonl; {} where there is no file. Raises UserError for a broken line."""
    if not path.exists():
        return {}
    curve: Curve = {}
    for number, row in enumerate(read_json_lines(path, REMEDY), 1):
        step = check(_Line, row, f"{path} entry {number}", REMEDY).step
        for name, value in row.items():
            if name != "step" and isinstance(value, int | float):
                curve.setdefault(name, []).append((step, float(value)))
    return curve


def read_warnings(outputs: Path, params: Params) -> list[Warned]:
    """What the training runs warned of, alike ones together; no file: nothing. Raises UserError for a broken line."""
    found = []
    for stage, name in stage_names(params):
        path = outputs / stage / name / "warnings.jsonl"
        if stage in TRAINING and path.exists():
            alike: dict[str, list[tuple[int, str]]] = {}
            for number, row in enumerate(read_json_lines(path, REMEDY), 1):
                said = check(_Warning, row, f"{path} entry {number}", REMEDY)
                alike.setdefault(NUMBERS.sub("#", said.text), []).append((said.step, said.text))
            found += [Warned(stage, name, [s for s, _ in rows], rows[-1][1]) for rows in alike.values()]
    return found


def read_runs(outputs: Path, params: Params) -> list[dict[str, Any]]:
    """The run records of everything listed, each with `stage` and `name`. A stage without a record is left out.

    Raises UserError for a broken record, and for one of a run with other parameters: DVC looks at them after the stage
    did, so an edit in between would pass for what ran.
    """
    records = []
    for stage, name in stage_names(params):
        path = outputs / "run" / stage / f"{name}.json"
        if path.exists():
            record = read_json(path, REMEDY)
            check(_Record, record, str(path), REMEDY)
            if said := unlike(params, stage, name, record.get("params") or {}):
                target = f"{stage}@{name}"
                raise UserError(f"{path}: {said}; run `dvc repro --force --no-run-cache {target}`")
            records.append({**record, "stage": stage, "name": name})
    return records


def unlike(params: Params, stage: str, name: str, recorded: dict[str, dict[str, Any]]) -> str:
    """The first parameter of a recorded run that is not as ``params`` has it now, in words; '' where all are.

    A commit that was found on the hub stands in the record for a branch, a tag or null.
    """
    experiment, *more = name.split("-")
    if stage == "risk":
        sections: dict[str, Any] = {"risk": resolve_risk(params, experiment, more[0])}
    else:
        sections = resolve(params, experiment, more[0] if stage == "rl" else None)._asdict()
    for section, values in recorded.items():
        now = json.loads(json.dumps(sections[section].model_dump()))
        for key in values.keys() & now.keys():
            if now[key] != values[key] and not (key in PINNED and COMMIT.fullmatch(str(values[key]))):
                return f"ran with {section}.{key} = {values[key]}, params.yaml says {now[key]}"
    return ""


def read_clips(outputs: Path, experiment: str, policy: str, seed: int) -> list[Clip]:
    """The videos of one evaluation; [] where it kept none. Raises UserError for a broken list or a missing video."""
    folder = outputs / "evaluate" / f"{experiment}-{policy}-{seed}" / "videos"
    path = folder / "videos.json"
    if not path.exists():
        return []
    clips = []
    for number, entry in enumerate(read_json_list(path, REMEDY)):
        video = check(_Video, entry, f"{path} entry {number}", REMEDY)
        clip = Clip(folder / video.file, video.split, video.task, video.success, video.episode, video.returned)
        if not clip.path.is_file():
            raise UserError(f"{clip.path} does not exist though videos.json lists it: {REMEDY}")
        clips.append(clip)
    return clips
