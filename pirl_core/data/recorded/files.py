"""A dataset that others recorded, and the files of its episodes: here, or of LeRobot's downloaded from the hub."""

from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.data.lerobot import schema
from pirl_core.errors import UserError
from pirl_core.facts import Facts
from pirl_core.readers.hub import snapshot
from pirl_core.readers.paths import inside

AGAIN = "fetch it again"
LEAVE_OUT = "fetch it again, or leave its episode out (curate.keep_episodes)"
EPISODES_AT_ONCE = 64
"""Downloaded in one go: the hub's client compares every file of a dataset with every wanted one, and beyond 32,768 of
these it compiles each anew every time."""


class Piece(NamedTuple):
    """Where an episode lies: a file of the dataset; start: of a video that it shares, the seconds where it begins.

    In a file of steps: its group, and start: the row where it begins among others.
    """

    name: str
    start: float | None = None


class Listed(NamedTuple):
    """An episode as the dataset lists it. number: its ``episode_index``. length: frames.

    files: of its ``data``, and of each camera that has a video. sentence: as recorded, or the task's own for one of its
    ``Task.aliases``. task: the benchmark's that it shows, None for a sentence that is of none of ``Recorded.tasks``.
    part: which of the task's ``Task.parts``, 0 where it has none. seed: of its start, where it was played here.
    """

    number: int
    length: int
    sentence: str
    files: Mapping[str, Piece]
    task: str | None = None
    part: int = 0
    seed: int | None = None


class Layout(NamedTuple):
    """How a file of steps is laid out. name: whose it is. observations: their key, an array's or a group's.

    home, prefix: the group that the episodes' groups lie in, and what these are called before their number; prefix "":
    all steps lie one after the other. after: observations that follow the last action.
    """

    name: str
    observations: str
    home: str = ""
    prefix: str = ""
    after: int = 0


class Recorded(NamedTuple):
    """A dataset's description. folder: where it lies, or the file of steps; repo, commit: of one from the hub.

    columns: of each camera, of state and action, with ``env.object_state`` of environment, and of sentence where one
    holds it. videos: the cameras whose frames lie in mp4 files. episodes: by rising number; some may be missing. facts:
    the benchmark's, or what the dataset tells in their place. tasks: those to learn. layout: of a file of steps; None:
    it is LeRobot's. notes: what is to be told of it.
    """

    folder: Path
    repo: str | None
    commit: str | None
    info: dict[str, Any]
    columns: dict[str, tuple[str, ...]]
    videos: frozenset[str]
    episodes: list[Listed]
    facts: Facts
    tasks: Sequence[str]
    layout: Layout | None = None
    notes: Sequence[str] = ()

    @property
    def told_in(self) -> Path:
        """Where it is described."""
        return self.folder / schema.INFO if self.layout is None else self.folder

    @property
    def shares_files(self) -> bool:
        """Whether a file holds many episodes, as since v3.0."""
        return str(self.info["codebase_version"]).startswith("v3.")

    @property
    def listing(self) -> str:
        """Where its episodes are listed."""
        return "meta/episodes" if self.shares_files else "meta/episodes.jsonl"


def damaged(path: Path, reason: object, remedy: str = AGAIN) -> UserError:
    """The line for a file of the dataset that cannot be used."""
    said = (str(reason).strip().splitlines() or ["no details"])[0][:160]
    return UserError(f"curate.dataset: {path} cannot be used ({said}); {remedy}")


def fetched(data: Recorded, episodes: Sequence[Listed]) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Of each episode the dataset's folder and its files in it: ``data``, and of each camera that has a video.

    Downloads those that are not here yet. Raises UserError where one would lie outside the folder.
    """
    for start in range(0, len(episodes), EPISODES_AT_ONCE):
        some, folder = [_of(data, episode) for episode in episodes[start : start + EPISODES_AT_ONCE]], data.folder
        if data.repo is not None:
            wanted = sorted({escape(piece.name) for files in some for piece in files.values()})
            folder = snapshot(data.repo, data.commit, wanted, repo_type="dataset")
        for files in some:
            yield folder, {what: _inside(folder, piece.name) for what, piece in files.items()}


def fetched_tables(data: Recorded, episodes: Sequence[Listed]) -> Iterator[Path]:
    """The file of each episode's data; no video is downloaded."""
    return (files["data"] for _, files in fetched(data._replace(videos=frozenset()), episodes))


def _of(data: Recorded, episode: Listed) -> dict[str, Piece]:
    return {what: piece for what, piece in episode.files.items() if what == "data" or what in data.videos}


def _inside(folder: Path, name: str) -> Path:
    try:
        return inside(folder, name)
    except ValueError as error:
        raise damaged(folder / schema.INFO, error, "all files of a dataset must lie in its folder") from None
