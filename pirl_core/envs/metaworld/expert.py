"""MetaWorld's scripted policies (metaworld.policies), which read the full simulator state."""

import warnings
from typing import Any

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from pirl_core.envs.contract import Act
from pirl_core.envs.metaworld.simulator import MetaWorldEnv


def show(simulator: MetaWorldEnv, act: Act) -> None:
    """Until the episode's end."""
    policy: Any = ENV_POLICY_MAP[simulator.task]()
    with warnings.catch_warnings():
        # They ask for more than 1 and count on the clipping.
        warnings.filterwarnings("ignore", "Constant")
        while True:
            act(np.clip(policy.get_action(simulator.full_observation()), -1.0, 1.0))
