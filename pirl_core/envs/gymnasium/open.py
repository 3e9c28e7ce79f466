"""Opens it; what is heavy is imported then."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pirl_core.envs.contract import Expert, Settings, Simulator, Wanted
from pirl_core.envs.drawing import opengl
from pirl_core.types import Episode


def simulator(settings: Settings, episode: Episode) -> Simulator:
    if settings.cameras:
        opengl.prefer()  # MuJoCo reads the variable when it is imported
    from pirl_core.envs.gymnasium.simulator import GymnasiumEnv

    return GymnasiumEnv(episode.task, settings)


def trained(settings: Settings, wanted: Wanted, tell: Callable[[str], None]) -> tuple[dict[str, np.ndarray], list[Any]]:
    """A policy for each task, as arrays called ``task/name``, and what is to be recorded of each."""
    from pirl_core.envs.gymnasium.training import train

    arrays: dict[str, np.ndarray] = {}
    records = []
    for task in settings.tasks:
        policy, record = train(
            task, settings.keys, settings.episode_steps, wanted.seed, wanted.level, wanted.steps, tell
        )
        arrays |= {f"{task}/{name}": value for name, value in policy.items()}
        records.append(record)
    return arrays, records


def expert(arrays: dict[str, np.ndarray]) -> Expert:
    from pirl_core.envs.gymnasium.expert import shower

    policies: dict[str, dict[str, np.ndarray]] = {}
    for place, value in arrays.items():
        task, _, name = place.rpartition("/")
        policies.setdefault(task, {})[name] = value
    return shower(policies)
