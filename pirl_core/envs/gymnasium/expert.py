"""Shows a task by a policy that was trained for it (``training``); needs no torch."""

import numpy as np

from pirl_core.envs.contract import Act, Expert
from pirl_core.envs.gymnasium.simulator import GymnasiumEnv

Trained = dict[str, np.ndarray]
"""An MLP of tanh: mean, std and clip of what it reads, then weight0, bias0, weight1, … of its layers."""


def mean_action(trained: Trained, state: np.ndarray) -> np.ndarray:
    """(S,) → (A,), not clipped to the action space."""
    bound = float(trained["clip"])
    x: np.ndarray = np.clip((state - trained["mean"]) / trained["std"], -bound, bound)
    last = sum(name.startswith("weight") for name in trained) - 1
    for number in range(last + 1):
        x = trained[f"weight{number}"] @ x + trained[f"bias{number}"]
        x = x if number == last else np.tanh(x)
    return x


def shower(trained: dict[str, Trained]) -> Expert:
    """Of the policies of all tasks."""

    def show(simulator: GymnasiumEnv, act: Act) -> None:
        own = trained[simulator.task]
        while True:
            act(simulator.bounded(mean_action(own, simulator.whole_state())))

    return show
