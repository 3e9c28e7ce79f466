"""The faster observation is MetaWorld's own, bit for bit."""

import numpy as np
import pytest

from pirl_core.envs.contract import Settings
from pirl_core.envs.metaworld.facts import TASKS
from pirl_core.envs.metaworld.simulator import MetaWorldEnv, observe
from pirl_core.types import Episode


def both(task: str, steps: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ours and MetaWorld's after each of some random steps."""
    simulator = MetaWorldEnv(task, Settings("metaworld", 10**9, [], 64, True, True, "cpu"))
    simulator.reset(Episode(task, 3))
    rng = np.random.default_rng(0)
    original = type(simulator._env).__mro__[1]._get_curr_obs_combined_no_goal  # type: ignore[attr-defined]
    pairs = []
    for _ in range(steps):
        _, terminated, _ = simulator.step(rng.uniform(-1, 1, 4))
        pairs.append((observe(simulator._env), original(simulator._env)))
        if terminated:
            break
    simulator.close()
    return pairs


@pytest.mark.parametrize(
    "tasks", [["drawer-open-v3", "stick-pull-v3"], pytest.param(list(TASKS), marks=pytest.mark.slow)]
)
def test_observation_is_that_of_metaworld(tasks: list[str]) -> None:
    for task in tasks:
        for ours, theirs in both(task, 20):
            assert ours.dtype == theirs.dtype
            assert ours.tobytes() == theirs.tobytes(), task
