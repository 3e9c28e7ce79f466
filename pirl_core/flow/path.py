"""The straight path between noise and action, and the flow-matching loss (π_RL Eq. 3).

Axes: B batch, H horizon (steps of the chunk), D action numbers.
Time: τ = 0 is noise, τ = 1 is the action. openpi and transformers run the other way; their adapters convert.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


def interpolate(action: Tensor, noise: Tensor, tau: Tensor) -> Tensor:
    """A^τ = τ A + (1 − τ) ε. action, noise: (B, H, D); tau: (B,) → (B, H, D)."""
    weight = tau[:, None, None]
    return weight * action + (1 - weight) * noise


def velocity_target(action: Tensor, noise: Tensor) -> Tensor:
    """u = A − ε, the constant velocity of the straight path. (B, H, D)."""
    return action - noise


def flow_matching_loss(velocity: Tensor, target: Tensor, real: Tensor) -> Tensor:
    """Mean of ‖v − u‖² over the real steps (Eq. 3).

    velocity, target: (B, H, D). real: (B, H) bool, False where the chunk runs past its episode's end.
    """
    error = (velocity - target).square().mean(-1)
    return (error * real).sum() / real.sum().clamp(min=1)


def sample_tau(rng: np.random.Generator, count: int, alpha: float, beta: float) -> Tensor:
    """τ = 1 − (0.999 t + 0.001) with t ~ Beta(alpha, beta): π0's draw, denser near the noise end. (count,)."""
    return torch.from_numpy(1 - (0.999 * rng.beta(alpha, beta, count) + 0.001)).float()


def shortcut_target(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor], x: Tensor, tau: Tensor, step: Tensor
) -> Tensor:
    """What a shortcut model should say of a step: the mean of its own two halves (arXiv 2410.12557, Eq. 4).

    velocity: (x, τ, d) → average velocity of the step of d from x at τ. x: (B, H, D); tau, step: (B,) → (B, H, D).
    """
    half = step / 2
    first = velocity(x, tau, half)
    return (first + velocity(x + half[:, None, None] * first, tau + half, half)) / 2
