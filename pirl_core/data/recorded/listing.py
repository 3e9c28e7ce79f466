"""Which episodes a LeRobot dataset lists, and in which files each lies: v2 has files for each episode, v3 for many."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.data.lerobot import schema
from pirl_core.data.recorded.files import AGAIN, Listed, Piece, damaged
from pirl_core.readers.paths import fill
from pirl_core.readers.tables import NUMBER, TEXTS, WHOLE, column_names, read_table
from pirl_core.readers.text import read_json_lines

PATHS = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
"""Where LeRobot v2 keeps files, unless info.json says otherwise."""
SHARED_PATHS = {
    "data_path": schema.DATA,
    "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
}
"""The same of v3."""
SEED = "env_seed"
"""Column in which datasets that were made here keep the seed of an episode's start."""


class _Row(NamedTuple):
    """An entry. parts: of ``data`` and of each video's column the values that the paths are filled with; spans: of each
    video's column the seconds from which to which it shows the episode."""

    number: int
    length: int
    sentence: str
    parts: Mapping[str, dict[str, int | str]]
    spans: Mapping[str, tuple[float, float]]
    seed: int | None = None


def listed(folder: Path, info: dict[str, Any], videos: Mapping[str, str]) -> list[Listed]:
    """The episodes by rising number, as yet of no task. videos: camera → column, of those that have any.

    Raises UserError where a list is damaged, contradicts itself or info.json, or names no file.
    """
    path = folder / schema.INFO
    rate = info.get("fps")
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise damaged(path, f"fps is {rate!r}, not the number of frames a second")
    shared = str(info["codebase_version"]).startswith("v3.")
    rows = _shared_rows(folder, rate, videos) if shared else _rows(folder, info, videos)
    for key, counted in (("total_episodes", len(rows)), ("total_frames", sum(row.length for row in rows))):
        if info.get(key) != counted:
            where = "meta/episodes" if shared else "meta/episodes.jsonl"
            raise damaged(
                path,
                f"{key} is {info.get(key)!r}, in {where} there are {counted}",
                "fetch both again; where episodes were taken out by hand, write that number there",
            )
    patterns = {key: str(info.get(key) or usual) for key, usual in (SHARED_PATHS if shared else PATHS).items()}

    def piece(row: _Row, key: str, what: str) -> Piece:
        try:
            name = fill(patterns[key], row.parts[what])
        except ValueError as error:
            reason = f"{key} '{patterns[key][:60]}': {error}"
            raise damaged(path, reason, "it must be as LeRobot writes it") from None
        return Piece(name, row.spans[what][0] if what in row.spans else None)

    def episode(row: _Row) -> Listed:
        files = {"data": piece(row, "data_path", "data")}
        files |= {camera: piece(row, "video_path", column) for camera, column in videos.items()}
        return Listed(row.number, row.length, row.sentence, files, seed=row.seed)

    return [episode(row) for row in sorted(rows)]


def _rows(folder: Path, info: dict[str, Any], videos: Mapping[str, str]) -> list[_Row]:
    """Of v2: number, length and first sentence of each episode; the rest follows from the number."""
    chunk, path = info.get("chunks_size"), folder / "meta/episodes.jsonl"
    if not isinstance(chunk, int) or chunk < 1:
        raise damaged(folder / schema.INFO, f"chunks_size is {chunk!r}, not the number of episodes in a folder")
    found: dict[int, _Row] = {}
    for at, entry in enumerate(read_json_lines(path, AGAIN), 1):
        match entry:
            case {"episode_index": int(number), "length": int(length), "tasks": [str(sentence), *_]} if (
                number >= 0 and length > 0 and number not in found
            ):
                parts: dict[str, dict[str, int | str]] = {
                    what: {"episode_chunk": number // chunk, "episode_index": number, "video_key": what}
                    for what in ("data", *videos.values())
                }
                found[number] = _Row(number, length, sentence, parts, {})
            case {"episode_index": int(number)} if number in found:
                raise damaged(path, f"entry {at}: episode_index {number} comes twice")
            case _:
                raise damaged(
                    path, f"entry {at}: needs episode_index from 0 on, length from 1 on and tasks, a sentence"
                )
    return [*found.values()]


def _shared_rows(folder: Path, rate: float, videos: Mapping[str, str]) -> list[_Row]:
    """Of v3: the tables of episodes, which say where in which file each lies."""
    home = folder / "meta/episodes"
    paths = sorted(home.glob("*/*.parquet"))
    if not paths:
        raise damaged(home, "it holds no chunk-*/file-*.parquet")
    keys = {"data": "data"} | {column: f"videos/{column}" for column in videos.values()}
    kinds = {"episode_index": WHOLE, "length": WHOLE, "tasks": TEXTS}
    kinds |= {f"{key}/{place}": WHOLE for key in keys.values() for place in ("chunk_index", "file_index")}
    kinds |= {f"videos/{c}/{end}": NUMBER for c in videos.values() for end in ("from_timestamp", "to_timestamp")}
    found: dict[int, _Row] = {}
    for path in paths:
        own = kinds | ({SEED: WHOLE} if SEED in column_names(path, AGAIN) else {})
        for entry in read_table(path, AGAIN, own).to_pylist():
            number, length, tasks = entry["episode_index"], entry["length"], entry["tasks"]
            if number in found:
                raise damaged(path, f"episode_index {number} comes twice")
            if number < 0 or length < 1 or not tasks or not tasks[0]:
                raise damaged(path, f"episode {number}: needs length from 1 on and tasks, a sentence")
            parts: dict[str, dict[str, int | str]] = {
                what: {"video_key": what, **{place: entry[f"{key}/{place}"] for place in ("chunk_index", "file_index")}}
                for what, key in keys.items()
            }
            spans = {
                column: (entry[f"videos/{column}/from_timestamp"], entry[f"videos/{column}/to_timestamp"])
                for column in videos.values()
            }
            for column, (start, end) in spans.items():
                if not abs((end - start) * rate - length) < 0.5:
                    lasts = f"episode {number} lasts {end - start:g} s in 'videos/{column}'"
                    raise damaged(path, f"{lasts}, and has {length} frames at {rate:g} a second", "fetch it again")
            found[number] = _Row(number, length, tasks[0], parts, spans, entry.get(SEED))
    return [*found.values()]
