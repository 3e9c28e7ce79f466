"""What a LeRobot v2 dataset says of itself: where its episodes lie, what they hold, which task each shows."""

import math
from pathlib import Path
from typing import Any

from pirl_core.data.lerobot import schema
from pirl_core.data.recorded.files import AGAIN, Listed, Recorded, damaged
from pirl_core.data.recorded.tasks import in_own_words, tasks_of
from pirl_core.errors import UserError
from pirl_core.facts import Facts, facts_of
from pirl_core.params.sections import Env
from pirl_core.readers.hub import HUB_ID, snapshot
from pirl_core.readers.text import read_json, read_json_lines

ROWS = ("frame_index", "episode_index", "timestamp")
"""Columns of every LeRobot dataset that say which frame a row is."""
EPISODES = "meta/episodes.jsonl"


def open_recorded(source: str, revision: str | None, env: Env) -> Recorded:
    """Reads the dataset's description; of one on the hub that alone is downloaded.

    source: a folder, or a hub id. revision: branch, tag or commit on the hub. Raises UserError where there is no such
    dataset, it is of another version, its files contradict one another, it lacks a column, needs PyAV, which is not
    there, or shows none of the sentences of a task.
    """
    folder, repo, commit = _find(source, revision)
    info = read_json(folder / schema.INFO, AGAIN)
    if not str(info.get("codebase_version")).startswith("v2."):
        raise UserError(
            f"curate.dataset: {source} is LeRobot {info.get('codebase_version')}; give one of v2.0 or v2.1, with an"
            " episode_*.parquet for each episode"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(feature, dict) for feature in features.values()):
        raise damaged(folder / schema.INFO, "'features' does not describe columns")
    columns = _columns(source, features, env)
    videos = frozenset(camera for camera in env.cameras if features[columns[camera][0]]["dtype"] == "video")
    if videos:
        _check_decoder(source)
    rows = _rows(folder / EPISODES)
    _check_counts(folder / schema.INFO, info, rows)
    listed = [Listed(*row, None, 0) for row in rows]
    data = in_own_words(Recorded(folder, repo, commit, info, columns, videos, listed), env)
    return data._replace(episodes=tasks_of(source, data.episodes, env))


def lengths_of(facts: Facts) -> dict[str, int]:
    """How many numbers a frame has of each kind."""
    return {"state": len(facts.state), "action": len(facts.action), "environment": facts.object_state}


def _columns(source: str, features: dict[str, dict[str, Any]], env: Env) -> dict[str, tuple[str, ...]]:
    """The columns that hold each camera, state, action and environment, of the right kind and size."""
    facts = facts_of(env.benchmark)
    others = facts.columns
    usual = {camera: schema.IMAGE.format(camera=camera) for camera in env.cameras}
    usual |= {"state": schema.STATE, "action": schema.ACTION}
    if env.object_state:
        usual["environment"] = schema.ENVIRONMENT_STATE
    columns = {what: (name,) if name in features else others.get(what, (name,)) for what, name in usual.items()}
    lacking = [name for names in [*columns.values(), ROWS] for name in names if name not in features]
    if lacking:
        raise UserError(f"curate.dataset: {source} has no column '{lacking[0]}'; it has {', '.join(sorted(features))}")
    sizes = lengths_of(facts)
    for what, names in columns.items():
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


def _check_decoder(source: str) -> None:
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"curate.dataset: {source} holds videos, and av cannot be imported ({error}); run make setup EXTRAS=calvin"
        ) from None


def _check_counts(path: Path, info: dict[str, Any], rows: list[tuple[int, int, str]]) -> None:
    """Raises UserError where info.json lacks a number, or counts otherwise than the list of episodes does."""
    rate, chunk = info.get("fps"), info.get("chunks_size")
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise damaged(path, f"fps is {rate!r}, not the number of frames a second")
    if not isinstance(chunk, int) or chunk < 1:
        raise damaged(path, f"chunks_size is {chunk!r}, not the number of episodes in a folder")
    for key, counted in (("total_episodes", len(rows)), ("total_frames", sum(length for _, length, _ in rows))):
        if info.get(key) != counted:
            raise damaged(
                path,
                f"{key} is {info.get(key)!r}, in {EPISODES} there are {counted}",
                "fetch both again; where episodes were taken out by hand, write that number there",
            )


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


def _rows(path: Path) -> list[tuple[int, int, str]]:
    """Number, length and first sentence of each episode, by rising number."""
    found: dict[int, tuple[int, int, str]] = {}
    for at, row in enumerate(read_json_lines(path, AGAIN), 1):
        match row:
            case {"episode_index": int(number), "length": int(length), "tasks": [str(sentence), *_]} if (
                number >= 0 and length > 0 and number not in found
            ):
                found[number] = number, length, sentence
            case {"episode_index": int(number)} if number in found:
                raise damaged(path, f"entry {at}: episode_index {number} comes twice")
            case _:
                raise damaged(
                    path, f"entry {at}: needs episode_index from 0 on, length from 1 on and tasks, a sentence"
                )
    return [found[number] for number in sorted(found)]
