"""Flow-SDE (Eq. 8, 9): σ = level √((1 − τ)/τ). At τ = 0 the denominator is the next grid time δ, so std = level."""

from torch import Tensor

from pirl_core.flow.noise import Weights, sde


def weights(tau: Tensor, delta: float, level: float) -> Weights:
    return sde(tau, delta, level**2 * (1 - tau) / tau.clamp(min=delta))
