"""Opens what the folder of a benchmark has, by its name: simulator, batch, expert."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pirl_core import named
from pirl_core.envs.alone import Alone
from pirl_core.envs.contract import Batch, Expert, Settings, Simulator, Wanted
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env
from pirl_core.types import Episode


def settings_of(env: Env) -> Settings:
    return Settings(
        env.world,
        env.episode_steps,
        list(env.cameras),
        env.image_size,
        env.fast_render,
        env.object_state,
        env.sim_backend,
        list(env.tasks),
        dict(env.keys),
        env.frame_stack,
    )


def open_simulator(settings: Settings, episode: Episode) -> Simulator:
    """A simulator that ``fits`` the episode; it still has to be reset. Imports the benchmark's package.

    Raises UserError when the task is unknown, or package or assets are missing.
    """
    facts_of(settings.benchmark).task(episode.task)
    if settings.sim_backend == "gpu":
        return Alone(open_batch(settings, episode, 1))
    simulator: Simulator = named.part(named.BENCHMARKS, settings.benchmark, "open").simulator(settings, episode)
    return simulator


def open_batch(settings: Settings, episode: Episode, num_envs: int) -> Batch:
    """A batch with ``num_envs`` rows that ``fits`` the episode, on the GPU of this rank.

    Raises UserError where there is no such GPU, or package or assets are missing.
    """
    batch: Batch = named.part(named.BENCHMARKS, settings.benchmark, "open").batch(settings, episode, num_envs)
    return batch


def trains_expert(benchmark: str) -> bool:
    """Whether the benchmark has no script, and trains who shows its tasks."""
    return hasattr(named.part(named.BENCHMARKS, benchmark, "open"), "trained")


def train_expert(
    settings: Settings, wanted: Wanted, tell: Callable[[str], None]
) -> tuple[dict[str, np.ndarray], list[Any]]:
    """Arrays for ``expert_of``, and a record of each task. Raises UserError where it does not get as good as wanted."""
    made: tuple[dict[str, np.ndarray], list[Any]] = named.part(named.BENCHMARKS, settings.benchmark, "open").trained(
        settings, wanted, tell
    )
    return made


def expert_of(benchmark: str, trained: dict[str, np.ndarray] | None = None) -> Expert:
    """Who shows the benchmark's tasks. trained: of ``train_expert``."""
    make = named.part(named.BENCHMARKS, benchmark, "open").expert
    expert: Expert = make() if trained is None else make(trained)
    return expert
