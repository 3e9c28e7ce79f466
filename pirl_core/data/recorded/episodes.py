"""Episodes of a dataset, frame by frame as recorded, or one line that says what is wrong with which file.

Axes: T frames of an episode, C cameras, H W pixels, S numbers of the simulator's whole state, A action numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pirl_core.data.lerobot import DemoEpisode
from pirl_core.data.pictures import decode_image, decode_span, decode_video, picture_of
from pirl_core.data.recorded.files import AGAIN, LEAVE_OUT, Listed, Recorded, damaged, fetched
from pirl_core.data.recorded.index import ROWS, lengths_of
from pirl_core.data.recorded.rows import Rows
from pirl_core.data.recorded.steps import read_steps
from pirl_core.data.recorded.tasks import plain
from pirl_core.errors import first_line
from pirl_core.facts import Facts
from pirl_core.params.sections import Env
from pirl_core.readers.paths import inside
from pirl_core.readers.tables import VECTOR, Kind
from pirl_core.readers.text import read_bytes

UNKNOWN_SEED = -1
"""Of the simulator in an episode that others recorded."""
PIXELS = Kind("pictures", lambda kind: True)
"""In any of the forms that ``_picture`` reads."""
UNREADABLE = (OSError, ValueError, TypeError, KeyError, SyntaxError, pa.ArrowException)


def read_episodes(data: Recorded, env: Env, chosen: Sequence[Listed]) -> Iterator[DemoEpisode]:
    """The chosen episodes, in that order, ``env.cameras`` alone and in ``env.image_size``; downloads the files that are
    not here yet.

    Frames come in the order of their ``frame_index``, whatever that of the rows. What the dataset does not say is 0 in
    ``state``. The last action is taken to have succeeded, but in a file of steps where episodes count by their return;
    its rewards are kept, others are 1 for success. Raises UserError for a file that is missing, damaged or
    outside the dataset, and where frames, their times or their number are not as the dataset says.
    """
    if data.layout is not None:
        for episode, steps in zip(chosen, read_steps(data, env, chosen), strict=True):
            yield _episode(data.folder, data, env, episode, steps.numbers.__getitem__, steps.pictures, steps.rewards)
        return
    pictures = {data.columns[camera][0] for camera in env.cameras if camera not in data.videos}
    numbers = {name for what in lengths_of(data.facts) for name in data.columns.get(what, ())}
    kinds = dict.fromkeys(pictures, PIXELS) | dict.fromkeys(numbers, VECTOR)
    rows = Rows(data, kinds | dict.fromkeys(ROWS, VECTOR))
    for episode, (folder, files) in zip(chosen, fetched(data, chosen), strict=True):
        path, size = files["data"], env.image_size
        table = rows.of(episode, path)
        table = table.take(_order(path, table, data, episode))
        images = {
            camera: _frames(files[camera], episode.files[camera].start, len(table), data.info["fps"], size)
            if camera in data.videos
            else _pictures(path, table, data.columns[camera][0], data, folder, size)
            for camera in env.cameras
        }
        yield _episode(path, data, env, episode, partial(_column, path, table), images, None)


def clipped(episode: DemoEpisode, facts: Facts) -> tuple[DemoEpisode, int]:
    """Its actions as the simulator would take them, and how many of them (T, not T·A) had a number beyond its range."""
    if facts.action_range is None:
        return episode, 0
    within = np.clip(episode.actions, -facts.action_range, facts.action_range)
    return episode._replace(actions=within), int((within != episode.actions).any(1).sum())


def _episode(
    path: Path,
    data: Recorded,
    env: Env,
    episode: Listed,
    read: Callable[[str], np.ndarray],
    images: Mapping[str, Sequence[np.ndarray]],
    rewards: np.ndarray | None,
) -> DemoEpisode:
    """read: column → (T, n) float64. images: camera → T pictures. rewards: (T,)."""
    assert episode.task is not None
    facts, size, length = data.facts, env.image_size, episode.length
    vectors = {
        what: _vectors(path, read, data.columns[what], what, facts, episode)
        for what in lengths_of(facts)
        if what in data.columns
    }
    state = np.zeros((length, facts.object_state), np.float32)
    known = vectors.get("environment", vectors["state"])
    state[:, : known.shape[1]] = known
    success = (np.arange(length) == length - 1) & (data.layout is None or facts.score == "success")
    shape = (length, len(env.cameras), size, size, 3)
    pictures = np.stack([images[camera] for camera in env.cameras], 1) if images else np.zeros(shape, np.uint8)
    return DemoEpisode(
        episode.task,
        plain(episode.sentence),
        UNKNOWN_SEED,
        0,
        pictures,
        state,
        vectors["action"],
        success.astype(np.float32) if rewards is None else rewards,
        success,
    )


def _order(path: Path, table: pa.Table, data: Recorded, episode: Listed) -> np.ndarray:
    """(T,) the row of each frame. Raises UserError where the rows are not the episode's frames, each once, in time."""
    if len(table) != episode.length:
        of = f" of episode {episode.number}" if data.shares_files else ""
        said = f"it has {len(table)} rows{of}, {data.listing} says {episode.length}"
        raise damaged(path, said, "fetch both again")
    rate = data.info["fps"]
    frame, number, time = (_column(path, table, name)[:, 0] for name in ROWS)
    strange = number[number != episode.number]
    if len(strange):
        raise damaged(path, f"'episode_index' is {strange[0]:g} in it, not {episode.number}")
    order = np.argsort(frame, kind="stable")
    wrong = np.flatnonzero(frame[order] != np.arange(len(table)))
    if len(wrong):
        found = frame[order[wrong[0]]]
        raise damaged(
            path, f"'frame_index' does not count 0 to {len(table) - 1}, each once: {found:g} where {wrong[0]} should be"
        )
    time = time[order]
    late = np.flatnonzero(~(np.abs(np.diff(time) * rate - 1) < 0.5))
    if len(late):
        here = late[0]
        raise damaged(
            path,
            f"'timestamp' goes from {time[here]:g} to {time[here + 1]:g} s at frame {here + 1}, info.json says"
            f" {rate:g} frames a second",
        )
    return order


def _vectors(
    path: Path, read: Callable[[str], np.ndarray], names: Sequence[str], what: str, facts: Facts, episode: Listed
) -> np.ndarray:
    """(T, n) float32 of the columns' n numbers, all finite."""
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and named below
        columns = [read(name).astype(np.float32) for name in names]
    for name, values in zip(names, columns, strict=True):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            frame, number = bad[0]
            raise damaged(
                path,
                f"'{name}' is {values[frame, number]:g} at frame {frame}, number {number} (episode {episode.number})",
                LEAVE_OUT,
            )
    joined = np.concatenate(columns, 1)
    wanted = lengths_of(facts)[what]
    if joined.shape[1] != wanted:
        raise damaged(path, f"'{' + '.join(names)}' holds {joined.shape[1]} numbers, {facts.label}'s {what} {wanted}")
    return joined


def _column(path: Path, table: pa.Table, name: str) -> np.ndarray:
    """(T, n) float64; a column of one number may hold it bare."""
    try:
        values = np.array(table[name].to_pylist(), np.float64)
    except (ValueError, TypeError) as error:
        raise damaged(path, f"'{name}' is not equally many numbers in every frame: {first_line(error)}") from None
    return values.reshape(len(table), -1)


def _pictures(path: Path, table: pa.Table, name: str, data: Recorded, folder: Path, size: int) -> list[np.ndarray]:
    """The column's T pictures, each (size, size, 3) uint8."""
    found = []
    for frame, value in enumerate(table[name]):
        try:
            found.append(_picture(value, data.info["features"][name].get("shape"), folder, size))
        except UNREADABLE as error:
            reason = f"'{name}' at frame {frame}: {first_line(error)}"
            raise damaged(path, reason, "fetch it again, or store its pictures as PNG inside the file") from None
    return found


def _picture(value: Any, shape: list[int], folder: Path, size: int) -> np.ndarray:
    """Of bytes of PNG or JPEG, the name of such a file in the dataset, or pixels; flat ones have ``shape``."""
    if isinstance(value, pa.ListScalar) and value.is_valid:
        pixels = _pixels(value.values)
        return picture_of(pixels.reshape(shape) if pixels.ndim == 1 else pixels, size)
    match value.as_py():
        case bytes(content) | {"bytes": bytes(content)}:
            return decode_image(content, size)
        case {"path": str(name)}:
            file = inside(folder, name)
            if not file.is_file():
                raise ValueError(f"it lies in {name}, which is not there")
            return decode_image(read_bytes(file, AGAIN), size)
        case _:
            raise ValueError("neither bytes, nor a path, nor pixels")


def _pixels(values: pa.Array) -> np.ndarray:
    """Nested lists → an array, in the type of their numbers. Raises ValueError where they differ in length."""
    shape = [len(values)]
    while isinstance(values, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        [*lengths] = pc.list_value_length(values).unique()
        if len(lengths) != 1:
            raise ValueError("its rows differ in length")
        shape.append(lengths[0].as_py())
        values = values.flatten()
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(shape)


def _frames(path: Path, start: float | None, rows: int, rate: float, size: int) -> list[np.ndarray]:
    """The video's ``rows`` frames, each (size, size, 3) uint8; start: s at which they begin in one of many episodes."""
    try:
        if start is not None:
            return decode_span(path, size, start, rows, rate)
        frames = decode_video(path, size)
    except UNREADABLE as error:
        raise damaged(path, error) from None
    if len(frames) != rows:
        raise damaged(path, f"it has {len(frames)} frames, its parquet file {rows} rows")
    return frames
