"""Reads LeRobot v3.0 datasets whose images lie inside the parquet files, and checks what it reads.

Axes: N frames of all episodes, C cameras, H W pixels, S state numbers, A action numbers, K chunk horizon.
"""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import Field

from pirl_core.data.lerobot import schema
from pirl_core.data.lerobot.pictures import Pictures, offsets
from pirl_core.errors import UserError
from pirl_core.readers.pictures import picture_size
from pirl_core.readers.tables import PICTURE, TEXT, VECTOR, WHOLE, Kind, column_names, read_table
from pirl_core.readers.text import read_json
from pirl_core.readers.typed import Open, check

REMAKE = "make the dataset again (dvc repro --force on its curate stage) or fetch an intact copy"


class _Feature(Open):
    dtype: str
    shape: list[Annotated[int, Field(ge=0, le=4096)]]


class Frames(NamedTuple):
    """All frames, episode after episode, each in order.

    images: (N, C, H, W, 3) uint8, those of files left there; (N, 0, 0, 0, 3) without cameras. state: (N, S) float32.
    actions: (N, A) float32.
    episode, frame, task_index: (N,) int64. tasks: the sentence of each task index.
    """

    images: np.ndarray | Pictures
    state: np.ndarray
    actions: np.ndarray
    episode: np.ndarray
    frame: np.ndarray
    task_index: np.ndarray
    tasks: list[str]

    @property
    def instructions(self) -> list[str]:
        """N sentences."""
        return [self.tasks[index] for index in self.task_index]


def read_dataset(folder: Path, cameras: list[str], object_state: bool) -> Frames:
    """The whole dataset with the chosen cameras, in that order.

    State is ``observation.state``; with ``object_state`` the rest of ``observation.environment_state`` follows, whose
    first numbers repeat the proprioception (the convention of lerobot/metaworld_mt50).
    Raises UserError where the dataset is absent, of another version, incomplete, damaged or lacks what was asked for.
    """
    info = _read_info(folder)
    pictures = [schema.IMAGE.format(camera=camera) for camera in cameras]
    vectors = [schema.STATE, schema.ACTION] + [schema.ENVIRONMENT_STATE] * object_state
    shapes = _shapes(folder, info, pictures, vectors)
    indices = ("episode_index", "frame_index", "task_index")
    kinds = dict.fromkeys(vectors, VECTOR) | dict.fromkeys(indices, WHOLE)
    table, images = _read_files(folder, info, kinds, {name: shapes[name] for name in pictures})
    values = {name: _vectors(folder, table, name, shapes[name][0]) for name in vectors}
    state = values[schema.STATE]
    if object_state:
        state = np.concatenate([state, values[schema.ENVIRONMENT_STATE][:, state.shape[1] :]], axis=1)
    tasks = _read_tasks(folder)
    episode, frame, task = (np.asarray(table[name].to_numpy(), np.int64) for name in indices)
    if task.min() < 0 or task.max() >= len(tasks):
        raise UserError(f"{folder}: a frame has a task_index outside the {len(tasks)} of {schema.TASKS}; {REMAKE}")
    starts = np.flatnonzero(np.diff(episode, prepend=-1))
    expected = np.arange(len(table)) - np.repeat(starts, np.diff(starts, append=len(table)))
    if len(np.unique(episode)) != len(starts) or not np.array_equal(frame, expected):
        raise UserError(f"{folder}: frame_index does not count 0, 1, ... within each episode_index; {REMAKE}")
    return Frames(images, state, values[schema.ACTION], episode, frame, task, tasks)


def dataset_stats(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """Feature → statistic (min, max, mean, std, count, q01, q10, q50, q90, q99) → array, from ``meta/stats.json``.

    Raises UserError where the file is absent or lacks state or action statistics.
    """
    stats = _read_json(folder, schema.STATS)
    for feature in (schema.STATE, schema.ACTION):
        for key in ("mean", "std", "q01", "q99"):
            values = stats.get(feature, {}).get(key)
            if not values or not np.isfinite(np.asarray(values, np.float64)).all():
                raise UserError(f"{folder / schema.STATS}: no finite '{key}' of '{feature}'; {REMAKE}")
    return {name: {key: np.asarray(value) for key, value in entry.items()} for name, entry in stats.items()}


def action_chunks(frames: Frames, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Which frames' actions make the chunk that starts at each frame: indices (N, K) int64 and real (N, K) bool.

    Chunk t is the actions t .. t+K-1; past the end of its episode the last action repeats and ``real`` is False.
    """
    total = len(frames.episode)
    ends = np.append(np.flatnonzero(np.diff(frames.episode)), total - 1)
    last = np.repeat(ends, np.diff(ends, prepend=-1))[:, None]
    wanted = np.arange(total)[:, None] + np.arange(horizon)
    return np.minimum(wanted, last), wanted <= last


def _read_info(folder: Path) -> dict[str, Any]:
    info = _read_json(folder, schema.INFO)
    version = str(info.get("codebase_version"))
    if version.startswith("v2"):
        raise UserError(
            f"{folder}: LeRobot {version} dataset, v3.0 is needed; convert it with "
            "`python -m lerobot.datasets.v30.convert_dataset_v21_to_v30` (lerobot >= 0.4)"
        )
    if not version.startswith("v3."):
        raise UserError(f"{folder / schema.INFO}: codebase_version '{version}' is unknown; give a LeRobot v3.0 dataset")
    if not isinstance(info.get("features"), dict):
        raise UserError(f"{folder / schema.INFO}: 'features' is missing; {REMAKE}")
    if not info.get("total_frames"):
        raise UserError(f"{folder}: the dataset is empty (total_frames in {schema.INFO}); record episodes first")
    return info


def _shapes(folder: Path, info: dict[str, Any], pictures: list[str], vectors: list[str]) -> dict[str, tuple[int, ...]]:
    features = info["features"]
    shapes = {}
    for name in [*pictures, *vectors]:
        if name not in features:
            raise UserError(f"{folder}: no feature '{name}'; the dataset has {', '.join(sorted(features))}")
        feature = check(_Feature, features[name], f"{folder / schema.INFO}: feature '{name}'", REMAKE)
        kind, shape = feature.dtype, tuple(feature.shape)
        if kind == "video":
            raise UserError(
                f"{folder}: '{name}' is stored as video; record it with images in parquet (use_videos=False)"
            )
        good = len(shape) == 3 and shape[2] == 3 and kind == "image" if name in pictures else len(shape) == 1
        if not good:
            wanted = "an image (H, W, 3)" if name in pictures else "a vector"
            raise UserError(f"{folder}: '{name}' is {kind} of shape {shape}, not {wanted}; correct the recording")
        shapes[name] = shape
    return shapes


def _read_files(
    folder: Path, info: dict[str, Any], columns: dict[str, Kind], pictures: dict[str, tuple[int, ...]]
) -> tuple[pa.Table, np.ndarray | Pictures]:
    """The columns of all files, and their pictures, which are looked at and left; one file is in memory at a time.

    pictures: column → (H, W, 3).
    """
    sizes = [*pictures.values()] or [(0, 0, 3)]
    for name, size in pictures.items():
        if size != sizes[0]:
            raise UserError(f"{folder}: {name} is {size}, another {sizes[0]}; record all cameras at one size")
    files = sorted((folder / "data").glob("chunk-*/file-*.parquet"))
    if not files:
        raise UserError(f"{folder}: no data/chunk-*/file-*.parquet; {REMAKE}")
    tables, places, rows = [], [], 0
    for path in files:
        table = read_table(path, REMAKE, columns | dict.fromkeys(pictures, PICTURE))
        tables.append(table.select(list(columns)))
        found = [_places(folder, path, table, name, size, rows) for name, size in pictures.items()]
        places.append(np.stack(found, 1) if found else np.empty((len(table), 0, 2), np.int64))
        rows += len(table)
    if rows != info["total_frames"]:
        raise UserError(f"{folder}: {rows} frames in data/, {info['total_frames']} in {schema.INFO}; {REMAKE}")
    if any(table.schema != tables[0].schema for table in tables):
        raise UserError(f"{folder}: the files of data/ have columns of different types; {REMAKE}")
    whole = pa.concat_tables(tables)
    if not pictures:
        return whole, np.empty((rows, 0, *sizes[0]), np.uint8)
    where = np.concatenate(places)
    file = np.repeat(np.arange(len(files)), [len(table) for table in tables])
    return whole, Pictures(files, file, where[..., 0], where[..., 1], (sizes[0][0], sizes[0][1]))


def _places(folder: Path, path: Path, table: pa.Table, name: str, size: tuple[int, ...], first: int) -> np.ndarray:
    """(rows, 2) int64: where each picture of column ``name`` begins in the file, and its length, in bytes.

    first: the number of the table's first frame. Raises UserError for what is no picture, or one of another size.
    """
    encoded = [row["bytes"].as_py() for row in table[name]]
    for frame, picture in enumerate(encoded, first):
        try:
            width, height = picture_size(picture)
        except ValueError as error:
            raise UserError(f"{folder}: '{name}' of frame {frame}: {error}; {REMAKE}") from None
        if (height, width, 3) != size:
            raise UserError(
                f"{folder}: '{name}' of frame {frame} is {(height, width, 3)}, {schema.INFO} says {size}; {REMAKE}"
            )
    try:
        return np.stack([offsets(path, name, encoded), np.array([len(picture) for picture in encoded])], 1)
    except ValueError as error:
        raise UserError(f"{path}: {error}, and pictures are read where they lie; {REMAKE}") from None


def _read_tasks(folder: Path) -> list[str]:
    path = folder / schema.TASKS
    if not path.is_file():
        raise UserError(f"{path}: missing; {REMAKE}")
    # A column, or the index of the data frame that was saved.
    name = "task" if "task" in column_names(path, REMAKE) else "__index_level_0__"
    table = read_table(path, REMAKE, {name: TEXT, "task_index": WHOLE})
    tasks = dict(zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True))
    if len(tasks) != len(table) or sorted(tasks) != list(range(len(table))):
        raise UserError(f"{path}: task_index does not count 0, 1, ...; {REMAKE}")
    return [tasks[index] for index in range(len(tasks))]


def _vectors(folder: Path, table: pa.Table, name: str, length: int) -> np.ndarray:
    try:
        numbers = np.stack(table[name].to_numpy(zero_copy_only=False))
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and named below
            values: np.ndarray = numbers.astype(np.float32).reshape(len(table), -1)
    except (TypeError, ValueError):
        raise UserError(f"{folder}: '{name}' is not {length} numbers in every frame; {REMAKE}") from None
    if values.shape[1] != length:
        raise UserError(f"{folder}: '{name}' has {values.shape[1]} numbers, {schema.INFO} says {length}; {REMAKE}")
    bad = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad):
        raise UserError(f"{folder}: '{name}' is not finite in frame {bad[0]} ({len(bad)} such); remove its episode")
    return values


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path}: missing; give the folder of a LeRobot v3.0 dataset, or make it (dvc repro)")
    return read_json(path, REMAKE)
