"""Files of steps, as offline RL keeps them: D4RL, OGBench, Minari and robomimic, each in the layout of its authors.

* D4RL (arXiv:2004.07219; ``d4rl/offline_env.py``, ``sequence_dataset`` of ``d4rl/__init__.py``), HDF5: observations,
  actions, rewards, terminals and timeouts, a row a step. A step with one of the last two ends its episode.
* OGBench (arXiv:2410.20092; ``load_dataset`` of ``ogbench/utils.py``), npz: observations, actions and terminals, which
  end an episode for whatever reason. No rewards: these come of the goal that is asked for.
* Minari ("Dataset Standards" of its documentation; ``HDF5Storage``): ``data/main_data.hdf5`` with a group ``episode_0``
  and on, each of observations (an array, or a group of them), actions, rewards, terminations and truncations. There is
  one observation more than there are actions. ``data/metadata.json`` beside it says what environment it is.
* robomimic (arXiv:2108.03298; "Dataset Structure" of its documentation), HDF5: groups ``data/demo_0`` and on, each of a
  group obs, actions, rewards and dones; ``env_args`` of ``data`` is JSON that says what environment it is.

Axes: N steps of a file, T of an episode, H W pixels.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pirl_core.data.pictures import picture_of
from pirl_core.data.recorded.files import AGAIN, LEAVE_OUT, Layout, Listed, Piece, Recorded, damaged
from pirl_core.errors import UserError
from pirl_core.params.sections import Env
from pirl_core.readers.arrays import Arrays, Rows, open_arrays, read_rows
from pirl_core.readers.text import parse_json, read_json

ACTIONS, REWARDS, ENDS = "actions", "rewards", ("terminals", "timeouts")
SUFFIXES = (".hdf5", ".h5", ".npz")
MAIN = "main_data.hdf5"
MOST_STEPS = 10**9
FLAT = Layout("D4RL", "observations")
NPZ = Layout("OGBench", "observations")
MINARI = Layout("Minari", "observations", "", "episode_", 1)
ROBOMIMIC = Layout("robomimic", "obs", "data", "demo_")
KNOWN = "D4RL and OGBench have observations, actions and terminals, Minari episode_0, robomimic data/demo_0"


class Steps(NamedTuple):
    """An episode as its file has it. numbers: column → (T, n) float64. pictures: camera → T of (H, W, 3) uint8.
    rewards: (T,) float32; None where the file has none."""

    numbers: dict[str, np.ndarray]
    pictures: dict[str, list[np.ndarray]]
    rewards: np.ndarray | None


def file_of(path: Path) -> Path | None:
    """The file of steps that ``path`` is or, of Minari, holds; None where it is a folder of another kind.

    Raises UserError for a file that is not there, and for a Minari dataset that is not kept in HDF5.
    """
    if not path.is_dir():
        if path.suffix in SUFFIXES and not path.exists():
            raise UserError(f"curate.dataset: {path}: no such file; check the path")
        return path if path.exists() else None
    for home in (path / "data", path):
        if (home / MAIN).exists():
            return home / MAIN
        if (home / "metadata.json").exists():
            kind = str(read_json(home / "metadata.json", AGAIN).get("data_format"))[:40]
            raise UserError(
                f"curate.dataset: {home} has no {MAIN}, its data_format is {kind}; make it anew in Minari's hdf5"
            )
    return None


def describe(path: Path) -> tuple[Layout, dict[str, Any]]:
    """The layout, and what the file says in the words of LeRobot's info.json: features, of an episode's steps; fps,
    None where it is not told; name, of the environment or, where it tells none, of the file.

    Raises UserError for a damaged file, for one of another layout, and where it holds no episode.
    """
    with open_arrays(path, AGAIN) as arrays:
        layout = _layout(path, arrays)
        first = next(iter(_groups(arrays, layout)), (0, ""))[1]
        features = {name: _feature(array) for name, array in arrays.below(first).items() if array.shape}
        said = _environment(path, arrays, layout)
    for name in (ACTIONS, *([] if layout.prefix else ENDS[:1])):
        if name not in features:
            raise _lacking(path, name, features)
    kwargs = said.get("env_kwargs")
    rate = kwargs.get("control_freq") if isinstance(kwargs, dict) else None
    name = said.get("env_name") or said.get("dataset_id") or path.stem
    return layout, {"fps": rate if isinstance(rate, int | float) and rate > 0 else None, "name": str(name)[:80],
                    "codebase_version": layout.name, "features": features}  # fmt: skip


def observed(layout: Layout, features: Iterable[str]) -> list[str]:
    """The columns of its observations, pictures among them: one, or those of the group."""
    root = layout.observations
    return [name for name in features if name == root or name.startswith(f"{root}/")]


def list_steps(path: Path, layout: Layout, sentence: str) -> tuple[list[Listed], list[str]]:
    """All episodes by rising number, each of that sentence, and what is to be told of them.

    Raises UserError where the file is damaged, none has an end, or one has no step.
    """
    with open_arrays(path, AGAIN) as arrays:
        if not layout.prefix:
            return _cut(path, arrays, layout, sentence)
        found = []
        for number, group in _groups(arrays, layout):
            length = _rows(path, arrays, f"{group}/{ACTIONS}").shape[0]
            if not length:
                raise damaged(path, f"'{group}/{ACTIONS}' has no rows", "take that episode out")
            found.append(Listed(number, length, sentence, {"data": Piece(group)}))
    return found, []


def read_steps(data: Recorded, env: Env, chosen: Sequence[Listed]) -> Iterator[Steps]:
    """The chosen episodes, in that order; no more than one is in memory.

    Raises UserError where a key is missing, holds other things than numbers, or has other rows than the actions.
    """
    path = data.folder
    pictures = {camera: data.columns[camera][0] for camera in env.cameras}
    numbers = {name for what, own in data.columns.items() if what not in env.cameras for name in own}
    with open_arrays(path, AGAIN) as arrays:
        for episode in chosen:
            read = _reader(path, arrays, data.layout or FLAT, episode)
            images = {camera: _pictures(path, read(name), name, env.image_size) for camera, name in pictures.items()}
            is_told = arrays.find(_in(episode, REWARDS)) is not None
            rewards = _rewards(path, read(REWARDS), episode) if is_told else None
            with np.errstate(invalid="ignore"):  # a NaN that signals; whoever takes it looks for it
                values = {name: read(name).astype(np.float64).reshape(episode.length, -1) for name in sorted(numbers)}
            yield Steps(values, images, rewards)


def _layout(path: Path, arrays: Arrays) -> Layout:
    top = arrays.names()
    for layout in (MINARI, ROBOMIMIC):
        if _groups(arrays, layout):
            return layout
    if {"observations", ACTIONS, *ENDS} & {*top}:
        return NPZ if path.suffix == ".npz" else FLAT
    raise damaged(path, f"it holds {', '.join(top[:8]) or 'nothing'}; {KNOWN}", "give one of these")


def _groups(arrays: Arrays, layout: Layout) -> list[tuple[int, str]]:
    """Number and group of each episode, by rising number; none where all lie in one."""
    if not layout.prefix:
        return []
    named = re.compile(rf"{layout.prefix}(\d{{1,9}})")
    found = [match for name in arrays.names(layout.home) if (match := named.fullmatch(name))]
    return sorted((int(match[1]), f"{layout.home}/{match[0]}".lstrip("/")) for match in found)


def _feature(array: Rows) -> dict[str, Any]:
    """As info.json would have it."""
    shape = [*array.shape[1:]]
    return {"dtype": "image" if len(shape) == 3 and array.dtype.kind in "ui" else str(array.dtype), "shape": shape}


def _environment(path: Path, arrays: Arrays, layout: Layout) -> dict[str, Any]:
    """What the authors say of it; {} where they say nothing."""
    if layout is MINARI and (beside := path.with_name("metadata.json")).is_file():
        return read_json(beside, AGAIN)
    said = arrays.text(layout.home, "env_args") if layout is ROBOMIMIC else None
    found = parse_json(said, f"{path}: env_args", AGAIN) if said else {}
    return found if isinstance(found, dict) else {}


def _cut(path: Path, arrays: Arrays, layout: Layout, sentence: str) -> tuple[list[Listed], list[str]]:
    """Of steps that lie one after the other. What follows the last end is left out, as by D4RL's own reader."""
    total = _rows(path, arrays, ACTIONS).shape[0]
    if total > MOST_STEPS:
        raise damaged(path, f"'{ACTIONS}' claims {total:,} rows")
    ended, told = np.zeros(total, bool), []
    for name in ENDS:
        if arrays.find(name) is not None:
            flags = _rows(path, arrays, name)
            if flags.shape[0] != total:
                raise damaged(path, f"'{name}' has {flags.shape[0]} rows, '{ACTIONS}' {total}")
            values = read_rows(path, name, flags, 0, total).reshape(total, -1)
            if len(bad := np.argwhere(~np.isfinite(values))):
                raise damaged(path, f"'{name}' is {values[tuple(bad[0])]:g} at step {bad[0][0]}")
            ended |= values.any(1)
        elif layout is FLAT:
            told.append(f"{path} has no '{name}': an episode that a time limit cut goes on in the next")
    ends = np.flatnonzero(ended) + 1
    if not len(ends):
        raise damaged(path, f"no step of {total} has an end: {' and '.join(ENDS)} are 0 or missing",
                      "set timeouts to 1 at the last step of each episode")  # fmt: skip
    if ends[-1] < total:
        told.append(f"the last {total - ends[-1]} of {total} steps of {path} have no end and are left out")
    starts = [0, *ends[:-1].tolist()]
    episodes = [
        Listed(number, end - start, sentence, {"data": Piece("", start)})
        for number, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True))
    ]
    return episodes, told


def _reader(path: Path, arrays: Arrays, layout: Layout, episode: Listed) -> Callable[[str], np.ndarray]:
    """Column → the episode's rows of it, in the file's own type."""
    start = int(episode.files["data"].start or 0)
    total = _rows(path, arrays, _in(episode, ACTIONS)).shape[0]

    def read(name: str) -> np.ndarray:
        whole = _in(episode, name)
        rows = _rows(path, arrays, whole)
        if rows.shape[0] - total not in (0, layout.after):
            raise damaged(path, f"'{whole}' has {rows.shape[0]} rows, '{ACTIONS}' {total}")
        return read_rows(path, whole, rows, start, start + episode.length)

    return read


def _rewards(path: Path, values: np.ndarray, episode: Listed) -> np.ndarray:
    """(T,) float32, all finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if values.size != episode.length or len(bad):
        wrong = f"is {values.flat[bad[0]]:g} at frame {bad[0]}" if len(bad) else f"has {values.size} numbers"
        raise damaged(path, f"'{REWARDS}' {wrong} (episode {episode.number})", LEAVE_OUT)
    return values.reshape(-1).astype(np.float32)


def _in(episode: Listed, name: str) -> str:
    return f"{episode.files['data'].name}/{name}".lstrip("/")


def _rows(path: Path, arrays: Arrays, name: str) -> Rows:
    found = arrays.find(name)
    if found is None or not found.shape:
        raise _lacking(path, name, arrays.names(name.rpartition("/")[0]))
    return found


def _lacking(path: Path, name: str, others: Sequence[str] | Mapping[str, Any]) -> UserError:
    return damaged(path, f"no key '{name}'; it has {', '.join([*others][:8])}")


def _pictures(path: Path, pixels: np.ndarray, name: str, size: int) -> list[np.ndarray]:
    try:
        return [picture_of(frame, size) for frame in pixels]
    except ValueError as error:
        raise damaged(path, f"'{name}': {error}") from None
