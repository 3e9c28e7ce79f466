"""Demonstrations that others recorded: LeRobot v2.0 and v2.1 datasets whose images lie inside the parquet files.

Such is the hub's LIBERO dataset, ``physical-intelligence/libero``. Axes: T frames of an episode, C cameras, H W pixels,
S numbers of the simulator's whole state, A action numbers.
"""

import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pirl_core.checkpoints.hub import snapshot
from pirl_core.checkpoints.source import HUB_ID
from pirl_core.data.lerobot import DemoEpisode, schema
from pirl_core.envs.benchmarks import facts_of
from pirl_core.envs.facts import Facts
from pirl_core.errors import UserError
from pirl_core.params import Env

UNKNOWN_SEED = -1
"""Of the simulator in an episode that others recorded."""
OTHER_NAMES = {"libero": {"agentview": "image", "eye_in_hand": "wrist_image", "state": "state", "action": "actions"}}
"""By benchmark: columns of known datasets that do not have LeRobot's names."""


class Recorded(NamedTuple):
    """A dataset's description. folder: where it lies; repo, commit: of one from the hub.

    columns: of each camera, of state and action, and with ``env.object_state`` of environment. tasks: the benchmark's
    task that each episode shows, None for a sentence that is of none of ``env.tasks``. sentences: as recorded.
    """

    folder: Path
    repo: str | None
    commit: str | None
    info: dict[str, Any]
    columns: dict[str, str]
    tasks: list[str | None]
    sentences: list[str]


def open_recorded(source: str, revision: str | None, env: Env) -> Recorded:
    """Reads the dataset's description; of one on the hub that alone is downloaded.

    source: a folder, or a hub id. revision: branch, tag or commit on the hub. Raises UserError where there is no such
    dataset, it is of another version, lacks a column or holds nothing of ``env.tasks``.
    """
    folder, repo, commit = _find(source, revision)
    info = _json(folder / schema.INFO)
    if not str(info.get("codebase_version")).startswith("v2."):
        raise UserError(
            f"curate.dataset: {source} is LeRobot {info.get('codebase_version')}; give one of v2.0 or v2.1, with an"
            " episode_*.parquet for each episode"
        )
    facts = facts_of(env.benchmark)
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise _damaged(folder / schema.INFO, "'features' does not describe columns")
    others = OTHER_NAMES.get(env.benchmark, {})
    usual = {camera: schema.IMAGE.format(camera=camera) for camera in env.cameras}
    usual |= {"state": schema.STATE, "action": schema.ACTION}
    if env.object_state:
        usual["environment"] = schema.ENVIRONMENT_STATE
    columns = {what: name if name in features else others.get(what, name) for what, name in usual.items()}
    sizes = _lengths(facts)
    for what, name in columns.items():
        described = features.get(name)
        if described is None:
            raise UserError(f"curate.dataset: {source} has no column '{name}'; it has {', '.join(sorted(features))}")
        if what not in sizes and described.get("dtype") != "image":
            raise UserError(f"curate.dataset: '{name}' of {source} is {described.get('dtype')}; images are needed")
        if what in sizes and list(described.get("shape", ())) != [sizes[what]]:
            raise UserError(
                f"curate.dataset: '{name}' of {source} is of shape {described.get('shape')}; {facts.label} has"
                f" {sizes[what]} {what} numbers"
            )
    known = {text.lower(): task for task in env.tasks for text in facts.task(task).sentences}
    sentences = _sentences(folder / "meta/episodes.jsonl")
    tasks = [known.get(sentence.lower()) for sentence in sentences]
    lacking = [task for task in env.tasks if task not in tasks]
    if lacking:
        raise UserError(
            f"curate.dataset: no episode of {source} shows '{facts.task(lacking[0]).sentences[0]}', which is"
            f" {lacking[0]}; drop it from env.tasks, or give another dataset"
        )
    return Recorded(folder, repo, commit, info, columns, tasks, sentences)


def read_episodes(data: Recorded, env: Env, numbers: Sequence[int]) -> Iterator[DemoEpisode]:
    """The episodes of these numbers, in that order, in ``env.image_size``; downloads the files that are not here yet.

    What the dataset does not say is 0 in ``state``. The last action is taken to have succeeded. Raises UserError for a
    file that is missing or damaged.
    """
    pattern = str(data.info.get("data_path", "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"))
    per_chunk = data.info.get("chunks_size", 1000)
    try:
        files = [pattern.format(episode_chunk=number // per_chunk, episode_index=number) for number in numbers]
    except (LookupError, TypeError, ValueError, ZeroDivisionError):
        raise _damaged(data.folder / schema.INFO, f"data_path '{pattern}' with {per_chunk} episodes a chunk") from None
    folder = data.folder
    if data.repo is not None:
        folder = snapshot(data.repo, data.commit, files, repo_type="dataset")
    for number, file in zip(numbers, files, strict=True):
        yield _episode(folder / file, data, env, number)


def _episode(path: Path, data: Recorded, env: Env, number: int) -> DemoEpisode:
    facts = facts_of(env.benchmark)
    task = data.tasks[number]
    assert task is not None
    try:
        table = pq.read_table(path, columns=list(data.columns.values()))
        vectors = {
            what: np.array(table[name].to_pylist(), np.float32)
            for what, name in data.columns.items()
            if what not in env.cameras
        }
        images = [
            [_picture(row["bytes"].as_py(), env.image_size) for row in table[data.columns[camera]]]
            for camera in env.cameras
        ]
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, pa.ArrowException) as error:
        raise _damaged(path, error) from None
    lengths = _lengths(facts)
    for what, values in vectors.items():
        if not len(table) or values.shape != (len(table), lengths[what]) or not np.isfinite(values).all():
            raise _damaged(path, f"{what} is not {lengths[what]} finite numbers in each of {len(table)} frames")
    state = np.zeros((len(table), facts.object_state), np.float32)
    known = vectors.get("environment", vectors["state"])
    state[:, : known.shape[1]] = known
    last = np.arange(len(table)) == len(table) - 1
    size = (len(table), len(env.cameras), env.image_size, env.image_size, 3)
    pictures = np.stack([np.stack(camera) for camera in images], 1) if images else np.zeros(size, np.uint8)
    return DemoEpisode(
        task,
        data.sentences[number].lower(),
        UNKNOWN_SEED,
        0,
        pictures,
        state,
        vectors["action"],
        last.astype(np.float32),
        last,
    )


def _lengths(facts: Facts) -> dict[str, int]:
    return {"state": len(facts.state), "action": len(facts.action), "environment": facts.object_state}


def _picture(encoded: bytes, size: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(encoded)).convert("RGB")
    if picture.size != (size, size):
        picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(picture, np.uint8)


def _damaged(path: Path, reason: object) -> UserError:
    said = (str(reason).strip().splitlines() or ["no details"])[0][:120]
    return UserError(f"curate.dataset: {path} cannot be used ({said}); fetch it again")


def _find(source: str, revision: str | None) -> tuple[Path, str | None, str | None]:
    path = Path(source).expanduser()
    if path.is_dir():
        if revision is not None:
            raise UserError(
                f"curate.dataset_revision = {revision!r} needs a hub id, but {source} is a folder; set null"
            )
        return path, None, None
    if not HUB_ID.fullmatch(source):
        raise UserError(f"curate.dataset: {source} is no folder, and no hub id of the form owner/name; check the path")
    folder = snapshot(source, revision, ["meta/*"], repo_type="dataset")
    return folder, source, folder.name


def _sentences(path: Path) -> list[str]:
    """The first sentence of each episode."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        if [row["episode_index"] for row in rows] != list(range(len(rows))):
            raise ValueError("episode_index does not count 0, 1, ...")
        return [str(row["tasks"][0]) for row in rows]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise _damaged(path, error) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None
    if not isinstance(content, dict):
        raise _damaged(path, "no JSON object")
    return content
