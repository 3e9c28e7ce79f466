"""What the report reads: only the folders that params.yaml lists, so leftovers of removed experiments never show up."""

import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow
import pyarrow.parquet as pq

from pirl_core.errors import UserError, first_line
from pirl_core.param_file import resolve
from pirl_core.params import Params, split_label
from pirl_core.paths import bare

COLUMNS = {
    "experiment": "object",
    "method": "object",
    "seed": "int",
    "split": "object",
    "task": "object",
    "env_seed": "int",
    "success": "bool",
    "steps": "int",
    "reward": "float",
}
REMEDY = "delete its folder and run `dvc repro`"
TRAINING = ("sft", "rl")
NUMBERS = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?|\bnan\b|\binf\b")
Curve = dict[str, list[tuple[float, float]]]  # metric name -> (step, value) points


class Warned(NamedTuple):
    """Warnings of one run that say the same but for their numbers. text: the newest."""

    stage: str
    name: str
    steps: list[int]
    text: str


class Clip(NamedTuple):
    """One video of an evaluated episode."""

    path: Path
    split: str
    task: str
    success: bool
    episode: int


def listed_splits(params: Params, experiment: str) -> list[str]:
    """Labels of an experiment's evaluation sets, `id` first, the rest in the order of the file."""
    names = list(resolve(params, experiment).evaluate.splits)
    return [split_label(name) for name in sorted(names, key=lambda name: name != "id")]


def stage_names(params: Params) -> list[tuple[str, str]]:
    """(stage, name) of everything that the parameters ask for, in the order of the pipeline."""
    experiments, seeds = list(params.experiments), params.seeds
    methods = [policy for policy in params.policies if policy != "sft"]
    return [
        *[("curate", e) for e in experiments],
        *[("sft", f"{e}-{s}") for e in experiments for s in seeds],
        *[("rl", f"{e}-{m}-{s}") for e in experiments for m in methods for s in seeds],
        *[("evaluate", f"{e}-{p}-{s}") for e in experiments for p in params.policies for s in seeds],
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
                _check(frame, path, {"experiment": experiment, "method": policy, "seed": seed}, splits)
                frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def read_table(path: Path) -> pd.DataFrame:
    """The COLUMNS of one table of episodes. Raises UserError for a missing or broken one, and where values are."""
    try:
        table = pq.ParquetFile(path).read()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `dvc repro` so that it is evaluated") from None
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path} is no readable parquet file ({_one_line(error)}): {REMEDY}") from None
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise UserError(f"{path} lacks the column '{missing[0]}': {REMEDY}")
    frame: pd.DataFrame = table.select(list(COLUMNS)).to_pandas()
    for name, kind in COLUMNS.items():
        right = frame[name].dtype == bool if kind == "bool" else True
        right = right and (pd.api.types.is_integer_dtype(frame[name]) if kind == "int" else True)
        right = right and (pd.api.types.is_numeric_dtype(frame[name]) if kind == "float" else True)
        if not right or frame[name].isna().any():
            raise UserError(f"{path}: column '{name}' must hold {kind} values without gaps: {REMEDY}")
    return frame


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
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            step = float(row.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{path}:{number} is no JSON object with a 'step': {REMEDY}") from None
        for name, value in row.items():
            if isinstance(value, int | float) and math.isfinite(value):
                curve.setdefault(name, []).append((step, float(value)))
    return curve


def read_warnings(outputs: Path, params: Params) -> list[Warned]:
    """What the training runs warned of, alike ones together; no file: nothing. Raises UserError for a broken line."""
    found = []
    for stage, name in stage_names(params):
        path = outputs / stage / name / "warnings.jsonl"
        if stage in TRAINING and path.exists():
            alike: dict[str, list[tuple[int, str]]] = {}
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                try:
                    row = json.loads(line)
                    step, text = int(row["step"]), str(row["text"])
                except (ValueError, KeyError, TypeError):
                    raise UserError(f"{path}:{number} is no JSON object with 'step' and 'text': {REMEDY}") from None
                alike.setdefault(NUMBERS.sub("#", text), []).append((step, text))
            found += [Warned(stage, name, [s for s, _ in rows], rows[-1][1]) for rows in alike.values()]
    return found


def read_runs(outputs: Path, params: Params) -> list[dict[str, Any]]:
    """The run records of everything listed, each with `stage` and `name`. A stage without a record is left out."""
    records = []
    for stage, name in stage_names(params):
        path = outputs / "run" / stage / f"{name}.json"
        if path.exists():
            records.append({**_read_json(path, dict), "stage": stage, "name": name})
    return records


def read_clips(outputs: Path, experiment: str, policy: str, seed: int) -> list[Clip]:
    """The videos of one evaluation; [] where it kept none. Raises UserError for a broken list or a missing video."""
    folder = outputs / "evaluate" / f"{experiment}-{policy}-{seed}" / "videos"
    path = folder / "videos.json"
    if not path.exists():
        return []
    clips = []
    for entry in _read_json(path, list):
        try:
            file = folder / bare(entry["file"])
            clip = Clip(file, entry["split"], entry["task"], entry["success"], entry["episode"])
        except (KeyError, TypeError):
            raise UserError(f"{path}: entry {entry!r} is incomplete: {REMEDY}") from None
        except ValueError as error:
            raise UserError(f"{path}: {first_line(error)}: {REMEDY}") from None
        if not clip.path.is_file():
            raise UserError(f"{clip.path} does not exist though videos.json lists it: {REMEDY}")
        clips.append(clip)
    return clips


def _read_json(path: Path, kind: type) -> Any:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is no readable JSON ({_one_line(error)}): {REMEDY}") from None
    if not isinstance(data, kind):
        raise UserError(f"{path} must hold a JSON {'object' if kind is dict else 'list'}: {REMEDY}")
    return data


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
