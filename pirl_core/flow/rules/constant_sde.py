"""SAC Flow's noise-augmented rollout: the same SDE with σ = level at all times."""

import torch
from torch import Tensor

from pirl_core.flow.noise import Weights, sde


def weights(tau: Tensor, delta: float, level: float) -> Weights:
    return sde(tau, delta, torch.full_like(tau, level**2))
