"""Two domains of one task (RL-Co, arXiv 2602.12628): demonstrations in simulation, and in what stands for reality.

A domain is a way to start episodes, a shift of the benchmark. Axes: N frames, C cameras, H W pixels, S state numbers,
A action numbers, of each dataset.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pirl_core.data.lerobot import Frames, Pictures, read_dataset
from pirl_core.errors import UserError
from pirl_core.params.sections import Curate, Env, Real

REAL = "real"
"""The folder of the second dataset, in that of the first."""


def real_half(env: Env, curate: Curate, real: Real) -> tuple[Env, Curate]:
    """What the second dataset is made by: the script under the other shift; all its episodes are kept."""
    only: dict[str, Any] = {
        "dataset": None, "dataset_revision": None, "columns": {}, "episodes_per_task": real.episodes_per_task,
        "keep_per_task": None, "keep_episodes": None, "real": None,
    }  # fmt: skip
    return env.model_copy(update={"shift": real.shift}), curate.model_copy(update=only)


def read_real(folder: Path, env: Env) -> Frames:
    """The second dataset of stage curate's ``folder``. Raises UserError where it has none."""
    if not (folder / REAL).is_dir():
        raise UserError(
            f"{folder / REAL} is not there: curate.real was null; run make stage STAGE=curate@{folder.name}"
        )
    return read_dataset(folder / REAL, list(env.cameras), env.object_state)


def joined(one: Frames, other: Frames) -> Frames:
    """The frames of both, those of ``one`` first; sentences that both have are one task.

    Raises UserError where pictures or numbers are not of equal size.
    """
    shapes = [(frames.images.shape[1:], frames.state.shape[1], frames.actions.shape[1]) for frames in (one, other)]
    if shapes[0] != shapes[1]:
        raise UserError(f"the datasets of the two domains differ: {shapes[0]} and {shapes[1]}; rerun stage curate")
    tasks = list(dict.fromkeys([*one.tasks, *other.tasks]))
    places = [np.array([tasks.index(task) for task in frames.tasks]) for frames in (one, other)]
    return Frames(
        _pictures(one.images, other.images),
        np.concatenate([one.state, other.state]),
        np.concatenate([one.actions, other.actions]),
        np.concatenate([one.episode, other.episode + one.episode.max() + 1]),
        np.concatenate([one.frame, other.frame]),
        np.concatenate([places[0][one.task_index], places[1][other.task_index]]),
        tasks,
    )


def _pictures(one: np.ndarray | Pictures, other: np.ndarray | Pictures) -> np.ndarray | Pictures:
    """Those of files stay there."""
    if isinstance(one, Pictures) and isinstance(other, Pictures):
        return one.followed_by(other)
    pictures: np.ndarray = np.concatenate([np.asarray(one), np.asarray(other)])
    return pictures
