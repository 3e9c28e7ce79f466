"""Demonstrations that others recorded: LeRobot v2.0 and v2.1 datasets, pictures in the parquet files or in mp4 files.

Such are the hub's LIBERO dataset, ``physical-intelligence/libero`` (images in parquet), and its CALVIN dataset,
``InternRobotics/InternData-Calvin_ABC`` (mp4; state and action in three columns each), as the official implementation
of the paper reads them. Axes: T frames of an episode, C cameras, H W pixels, S numbers of the simulator's whole state,
A action numbers.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pirl_core.checkpoints.hub import snapshot
from pirl_core.checkpoints.source import HUB_ID
from pirl_core.data.lerobot import DemoEpisode, schema
from pirl_core.data.pictures import decode_image, decode_video
from pirl_core.envs.benchmarks import facts_of
from pirl_core.envs.calvin.annotations import TRAINING
from pirl_core.envs.calvin.subtasks import SUBTASKS
from pirl_core.envs.facts import Facts
from pirl_core.errors import UserError
from pirl_core.params import Env

UNKNOWN_SEED = -1
"""Of the simulator in an episode that others recorded."""
OTHER_NAMES: dict[str, dict[str, tuple[str, ...]]] = {
    "libero": {
        "agentview": ("image",),
        "eye_in_hand": ("wrist_image",),
        "state": ("state",),
        "action": ("actions",),
    },
    "calvin": {
        "static": ("video.image_base",),
        "gripper": ("video.image_wrist",),
        "state": ("state.ee_pos", "state.ee_rot", "state.gripper"),
        "action": ("action.delta_ee_pos", "action.delta_ee_rot", "action.gripper"),
    },
}
"""By benchmark: columns of known datasets that do not have LeRobot's names; numbers of several follow one another."""
PATHS = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
"""Where LeRobot v2 keeps files, unless info.json says otherwise."""
EPISODES_AT_ONCE = 64
"""Downloaded in one go: the hub's client compares every file of a dataset with every wanted one, and beyond 32,768 of
these it compiles each anew every time."""
UNREADABLE = (OSError, ValueError, TypeError, KeyError, SyntaxError, pa.ArrowException)


class Recorded(NamedTuple):
    """A dataset's description. folder: where it lies; repo, commit: of one from the hub.

    columns: of each camera, of state and action, and with ``env.object_state`` of environment. videos: the cameras
    whose frames lie in mp4 files. tasks: the benchmark's task that each episode shows, None for a sentence that is of
    none of ``env.tasks``. sentences: as recorded.
    """

    folder: Path
    repo: str | None
    commit: str | None
    info: dict[str, Any]
    columns: dict[str, tuple[str, ...]]
    videos: frozenset[str]
    tasks: list[str | None]
    sentences: list[str]


def open_recorded(source: str, revision: str | None, env: Env) -> Recorded:
    """Reads the dataset's description; of one on the hub that alone is downloaded.

    source: a folder, or a hub id. revision: branch, tag or commit on the hub. An episode belongs to the first of
    ``env.tasks`` that has its sentence: no dataset tells CALVIN's scene, so where one subtask is a task in several
    scenes, the first has all its episodes; a sequence has those of every subtask. Raises UserError where there is no
    such dataset, it is of another version, lacks a column, needs PyAV, which is not there, or shows none of the
    sentences of a task.
    """
    folder, repo, commit = _find(source, revision)
    info = _json(folder / schema.INFO)
    if not str(info.get("codebase_version")).startswith("v2."):
        raise UserError(
            f"curate.dataset: {source} is LeRobot {info.get('codebase_version')}; give one of v2.0 or v2.1, with an"
            " episode_*.parquet for each episode"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise _damaged(folder / schema.INFO, "'features' does not describe columns")
    columns = _columns(source, features, env)
    videos = frozenset(camera for camera in env.cameras if features[columns[camera][0]]["dtype"] == "video")
    if videos:
        _check_decoder(source)
    sentences = _sentences(folder / "meta/episodes.jsonl")
    return Recorded(folder, repo, commit, info, columns, videos, _tasks(source, sentences, env), sentences)


def read_episodes(data: Recorded, env: Env, numbers: Sequence[int]) -> Iterator[DemoEpisode]:
    """The episodes of these numbers, in that order, in ``env.image_size``; downloads the files that are not here yet.

    What the dataset does not say is 0 in ``state``. The last action is taken to have succeeded. Raises UserError for a
    file that is missing or damaged, or a video that has not a frame for each row.
    """
    files = [_files(data, number) for number in numbers]
    for start in range(0, len(numbers), EPISODES_AT_ONCE):
        some, folder = slice(start, start + EPISODES_AT_ONCE), data.folder
        if data.repo is not None:
            wanted = [file for episode in files[some] for file in episode.values()]
            folder = snapshot(data.repo, data.commit, wanted, repo_type="dataset")
        for number, episode in zip(numbers[some], files[some], strict=True):
            yield _episode({what: folder / file for what, file in episode.items()}, data, env, number)


def _columns(source: str, features: dict[str, dict[str, Any]], env: Env) -> dict[str, tuple[str, ...]]:
    """The columns that hold each camera, state, action and environment, of the right kind and size."""
    facts, others = facts_of(env.benchmark), OTHER_NAMES.get(env.benchmark, {})
    usual = {camera: schema.IMAGE.format(camera=camera) for camera in env.cameras}
    usual |= {"state": schema.STATE, "action": schema.ACTION}
    if env.object_state:
        usual["environment"] = schema.ENVIRONMENT_STATE
    columns = {what: (name,) if name in features else others.get(what, (name,)) for what, name in usual.items()}
    sizes = _lengths(facts)
    for what, names in columns.items():
        lacking = [name for name in names if name not in features]
        if lacking:
            raise UserError(
                f"curate.dataset: {source} has no column '{lacking[0]}'; it has {', '.join(sorted(features))}"
            )
        kinds, shapes = ([features[name].get(key) for name in names] for key in ("dtype", "shape"))
        if what not in sizes and kinds[0] not in ("image", "video"):
            raise UserError(f"curate.dataset: '{names[0]}' of {source} is {kinds[0]}; images or videos are needed")
        if what in sizes and sum(_length(shape) for shape in shapes) != sizes[what]:
            raise UserError(
                f"curate.dataset: '{' + '.join(names)}' of {source} is of shape {' + '.join(map(str, shapes))};"
                f" {facts.label} has {sizes[what]} {what} numbers"
            )
    return columns


def _length(shape: object) -> int:
    """Numbers of a vector or a scalar; 0 for what is neither."""
    match shape:
        case [int(length)]:
            return length
        case []:
            return 1
        case _:
            return 0


def _tasks(source: str, sentences: list[str], env: Env) -> list[str | None]:
    """The task of each episode. Raises UserError for one of ``env.tasks`` whose sentences no episode has."""
    said = {task: _sentences_of(task, env) for task in env.tasks}
    shown = [_plain(sentence) for sentence in sentences]
    for task, texts in said.items():
        if texts.isdisjoint(shown):
            sentence = facts_of(env.benchmark).task(task).sentences[0]
            raise UserError(
                f"curate.dataset: no episode of {source} shows '{sentence}', which is {task}; drop it from env.tasks,"
                " or give another dataset"
            )
    first = {text: task for task, texts in reversed(said.items()) for text in texts}
    return [first.get(text) for text in shown]


def _sentences_of(task: str, env: Env) -> set[str]:
    """What an episode of the task may be called, those of CALVIN's training set included."""
    own = facts_of(env.benchmark).task(task).sentences
    texts = {_plain(text) for text in own}
    if env.benchmark == "calvin":
        texts |= {text for name, subtask in SUBTASKS.items() if subtask.sentence in own for text in TRAINING[name]}
    return texts


def _plain(sentence: str) -> str:
    return sentence.strip().lower()


def _check_decoder(source: str) -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"curate.dataset: {source} holds videos, and av cannot be imported ({error}); run make setup EXTRAS=calvin"
        ) from None


def _files(data: Recorded, number: int) -> dict[str, str]:
    """Files of an episode within the dataset: of its data, and of each camera that has a video."""
    per_chunk = data.info.get("chunks_size", 1000)
    kinds = {"data": ("data_path", "")}
    kinds |= {camera: ("video_path", data.columns[camera][0]) for camera in data.videos}
    files = {}
    for what, (key, video) in kinds.items():
        pattern = str(data.info.get(key) or PATHS[key])
        try:
            files[what] = pattern.format(episode_chunk=number // per_chunk, episode_index=number, video_key=video)
        except (LookupError, TypeError, ValueError, ZeroDivisionError):
            raise _damaged(data.folder / schema.INFO, f"{key} '{pattern}' with {per_chunk} episodes a chunk") from None
    return files


def _episode(files: dict[str, Path], data: Recorded, env: Env, number: int) -> DemoEpisode:
    facts = facts_of(env.benchmark)
    task = data.tasks[number]
    assert task is not None
    path = files["data"]
    inside = {what: names for what, names in data.columns.items() if what not in data.videos}
    try:
        table = pq.read_table(path, columns=[name for names in inside.values() for name in names])
        vectors = {what: _vectors(table, names) for what, names in inside.items() if what not in env.cameras}
        images = {
            what: [decode_image(row["bytes"].as_py(), env.image_size) for row in table[names[0]]]
            for what, names in inside.items()
            if what in env.cameras
        }
    except UNREADABLE as error:
        raise _damaged(path, error) from None
    lengths = _lengths(facts)
    for what, values in vectors.items():
        if not len(table) or values.shape != (len(table), lengths[what]) or not np.isfinite(values).all():
            raise _damaged(path, f"{what} is not {lengths[what]} finite numbers in each of {len(table)} frames")
    images |= {camera: _frames(files[camera], len(table), env.image_size) for camera in data.videos}
    state = np.zeros((len(table), facts.object_state), np.float32)
    known = vectors.get("environment", vectors["state"])
    state[:, : known.shape[1]] = known
    last = np.arange(len(table)) == len(table) - 1
    size = (len(table), len(env.cameras), env.image_size, env.image_size, 3)
    pictures = np.stack([images[camera] for camera in env.cameras], 1) if images else np.zeros(size, np.uint8)
    return DemoEpisode(
        task,
        _plain(data.sentences[number]),
        UNKNOWN_SEED,
        0,
        pictures,
        state,
        vectors["action"],
        last.astype(np.float32),
        last,
    )


def _vectors(table: pa.Table, names: Sequence[str]) -> np.ndarray:
    """(T, n) float32 of the columns' n numbers; a column of one number may hold it bare."""
    columns = [np.array(table[name].to_pylist(), np.float32) for name in names]
    return np.concatenate([column[:, None] if column.ndim == 1 else column for column in columns], 1)


def _frames(path: Path, rows: int, size: int) -> list[np.ndarray]:
    """The video's ``rows`` frames, each (size, size, 3) uint8."""
    try:
        frames = decode_video(path, size)
    except UNREADABLE as error:
        raise _damaged(path, error) from None
    if len(frames) != rows:
        raise _damaged(path, f"it has {len(frames)} frames, its parquet file {rows} rows")
    return frames


def _lengths(facts: Facts) -> dict[str, int]:
    return {"state": len(facts.state), "action": len(facts.action), "environment": facts.object_state}


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
