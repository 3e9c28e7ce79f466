"""A LeRobot v2 dataset that others recorded, and the files of its episodes: here, or downloaded from the hub."""

from collections.abc import Iterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.data.lerobot import schema
from pirl_core.errors import UserError
from pirl_core.readers.hub import snapshot
from pirl_core.readers.paths import fill, inside

AGAIN = "fetch it again"
PATHS = {
    "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
    "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
}
"""Where LeRobot v2 keeps files, unless info.json says otherwise."""
EPISODES_AT_ONCE = 64
"""Downloaded in one go: the hub's client compares every file of a dataset with every wanted one, and beyond 32,768 of
these it compiles each anew every time."""


class Listed(NamedTuple):
    """An episode as the dataset lists it. number: its ``episode_index``. length: frames.

    sentence: as recorded, or the task's own for one of its ``Task.aliases``. task: the benchmark's that it shows, None
    for a sentence that is of none of ``env.tasks``. part: which of the task's ``Task.parts``, 0 where it has none.
    """

    number: int
    length: int
    sentence: str
    task: str | None
    part: int


class Recorded(NamedTuple):
    """A dataset's description. folder: where it lies; repo, commit: of one from the hub.

    columns: of each camera, of state and action, and with ``env.object_state`` of environment. videos: the cameras
    whose frames lie in mp4 files. episodes: by rising number; some may be missing.
    """

    folder: Path
    repo: str | None
    commit: str | None
    info: dict[str, Any]
    columns: dict[str, tuple[str, ...]]
    videos: frozenset[str]
    episodes: list[Listed]


def damaged(path: Path, reason: object, remedy: str = AGAIN) -> UserError:
    """The line for a file of the dataset that cannot be used."""
    said = (str(reason).strip().splitlines() or ["no details"])[0][:160]
    return UserError(f"curate.dataset: {path} cannot be used ({said}); {remedy}")


def fetched(data: Recorded, numbers: Sequence[int]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Of each episode the dataset's folder and its files in it: ``data``, and of each camera that has a video.

    Downloads those that are not here yet. Raises UserError where one would lie outside the folder.
    """
    files = [_names(data, number) for number in numbers]
    for start in range(0, len(files), EPISODES_AT_ONCE):
        some, folder = files[start : start + EPISODES_AT_ONCE], data.folder
        if data.repo is not None:
            wanted = [escape(name) for names in some for name in names.values()]
            folder = snapshot(data.repo, data.commit, wanted, repo_type="dataset")
        for names in some:
            yield folder, {what: _inside(folder, name) for what, name in names.items()}


def _names(data: Recorded, number: int) -> dict[str, str]:
    """Files of an episode within the dataset: of its data, and of each camera that has a video."""
    kinds = {"data": ("data_path", "")}
    kinds |= {camera: ("video_path", data.columns[camera][0]) for camera in data.videos}
    files = {}
    for what, (key, video) in kinds.items():
        pattern = str(data.info.get(key) or PATHS[key])
        known = {"episode_chunk": number // data.info["chunks_size"], "episode_index": number, "video_key": video}
        try:
            files[what] = fill(pattern, known)
        except ValueError as error:
            reason = f"{key} '{pattern[:60]}': {error}"
            raise damaged(data.folder / schema.INFO, reason, "it must be as LeRobot v2 writes it") from None
    return files


def _inside(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except ValueError as error:
        raise damaged(folder / schema.INFO, error, "all files of a dataset must lie in its folder") from None
