"""Who plays an evaluation: the deterministic policy of the protocol, or one that explores as RL's rollouts do.

Axes: B rows, K denoising steps, H horizon, D action numbers of the network, R executed steps, A action numbers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from pirl_core.policy.exploration import Exploration
from pirl_core.policy.flow_policy import FlowPolicy, Process, keyed_normals, keyed_uniforms
from pirl_core.policy.precision import round_weights
from pirl_core.types import Observation

Player = Callable[[Observation, Sequence[tuple[int, ...]]], np.ndarray]
"""(observation of B rows, their (episode seed, decision)) → actions (B, R, A) in simulator units."""


def ready(policy: FlowPolicy) -> FlowPolicy:
    """In the arithmetic of its training, where it is to compute. policy: as its folder has it."""
    round_weights(policy, policy.precision)
    return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def deterministic(policy: FlowPolicy) -> Player:
    """ODE steps from start noise that (episode seed, decision) fixes."""

    @torch.no_grad()
    def act(observation: Observation, keys: Sequence[tuple[int, ...]]) -> np.ndarray:
        normals = keyed_normals("chunk", keys, policy.chunk_shape).to(policy.device)
        return np.asarray(policy.act(policy.encode(observation), normals).cpu())

    return act


def exploring(policy: FlowPolicy, exploration: Exploration) -> Player:
    """The chain with the noise of RL's rollouts (π_RL Table 2, Train), all of which (episode seed, decision) fixes.

    The stochastic step of a hybrid chain is each row's own, also where RL drew one a batch: what an episode becomes
    shall not depend on what is beside it.
    """
    process = Process(exploration.mdp, "env", "sum", None)
    policy.noise_net = None if exploration.net is None else exploration.net.to(policy.device)

    @torch.no_grad()
    def act(observation: Observation, keys: Sequence[tuple[int, ...]]) -> np.ndarray:
        normals = keyed_normals("exploring_chain", keys, (policy.denoise_steps + 1, *policy.chunk_shape))
        uniforms = keyed_uniforms("exploring_step", keys)
        noise, device = exploration.noise, policy.device
        context = policy.encode(observation)
        choice = policy.decide(context, normals.to(device), uniforms.to(device), noise, process)
        return np.asarray(choice.actions.cpu())

    return act
