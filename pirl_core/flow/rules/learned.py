"""Flow-Noise (Eq. 4) and ReinFlow: the Euler mean with the noise net's std, not scaled by √δ. std: (B, H, D)."""

from torch import Tensor

from pirl_core.flow.noise import Weights


def weights(tau: Tensor, delta: float, std: Tensor) -> Weights:
    return Weights(tau + delta, 1 - tau - delta, std)
