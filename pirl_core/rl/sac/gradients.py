"""How a gradient grows on its way back through the denoising chain (SAC Flow, arXiv 2509.25756, Sec. 5).

Axes: B rows, K denoising steps, H horizon, D action numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from pirl_core.flow import chain
from pirl_core.flow.chain import LearnedStd, Noise, Score, Velocity

Loss = Callable[[Tensor, Score], Tensor]
"""(states (B, K+1, H, D), score of the K steps) → each row's loss (B,)."""


def gradient_norms(
    velocity: Velocity, normals: Tensor, noise: Noise, noise_net: LearnedStd | None, loss: Loss
) -> Tensor:
    """‖∂ loss / ∂ A^k‖ for k = 0 … K − 1, the mean over rows: (K,). A^0 is the start, and what A^k does to all later
    states counts. normals: (B, K+1, H, D)."""
    seen: list[Tensor] = []

    def watched(x: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(x)
        return velocity(x, tau)

    drawn = torch.ones(len(normals), normals.shape[1] - 1, dtype=torch.bool, device=normals.device)
    states, score = chain.sample(watched, normals.detach().requires_grad_(), drawn, noise, noise_net)
    slopes = torch.autograd.grad(loss(states, score).sum(), seen)
    return torch.stack([slope.flatten(1).norm(dim=1).mean() for slope in slopes])
