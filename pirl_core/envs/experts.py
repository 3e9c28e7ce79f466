"""Experts that show a task: one module a benchmark."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pirl_core.envs.contract import Name

Act = Callable[[np.ndarray], None]
"""Executes and records one action (A,); raises EpisodeOver after the episode's last."""
Expert = Callable[[Any, Act], None]
"""Shows the task in a simulator that has just been reset; returns where it gives up."""


class EpisodeOver(Exception):  # noqa: N818  (no error)
    """The episode has ended, by success or by time."""


def expert_of(benchmark: Name) -> Expert:
    if benchmark == "maniskill":
        from pirl_core.envs.maniskill import expert as maniskill

        return maniskill.show
    if benchmark == "put_on_plate":
        from pirl_core.envs.put_on_plate import expert as put_on_plate

        return put_on_plate.show
    if benchmark == "simpler":
        from pirl_core.envs.simpler import expert as simpler

        return simpler.show
    if benchmark == "libero":
        from pirl_core.envs.libero import expert as libero

        return libero.show
    if benchmark == "calvin":
        from pirl_core.envs.calvin import expert as calvin

        return calvin.show
    from pirl_core.envs.metaworld import expert as metaworld

    return metaworld.show
