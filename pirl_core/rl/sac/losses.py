"""SAC Flow's losses as pure functions (arXiv 2509.25756, Sec. 4.2).

Axes: B rows, K denoising steps, R executed steps, D action numbers, C critics.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pirl_core.flow.chain import log_density


def squash(x: Tensor) -> tuple[Tensor, Tensor]:
    """tanh x, and ln |d tanh / dx| = 2 (ln 2 − x − softplus(−2x)) per element, finite for every x. Any shape."""
    return torch.tanh(x), 2 * (math.log(2) - x - F.softplus(-2 * x))


def path_log_prob(start: Tensor, steps: Tensor, jacobian: Tensor) -> Tensor:
    """ln p_c(A | s), the density of the whole path, of which the action's is the marginal: (B,).

    start: A⁰ (B, R, D). steps: ln N of each transition (B, K, R, D). jacobian: ``squash``'s at A^K (B, R, D).
    """
    first = log_density(start, torch.zeros_like(start), torch.ones_like(start))
    return (first + steps.sum(1) - jacobian).sum((1, 2))


def soft_target(
    reward: Tensor, terminated: Tensor, gamma: float, value: Tensor, log_prob: Tensor, temperature: Tensor
) -> Tensor:
    """r + γ (1 − end) (min over critics of Q(s', a') − α ln p_c(a' | s')): (B,). value: (C, B), the others (B,)."""
    return reward + gamma * (1 - terminated) * (value.min(0).values - temperature * log_prob)


def critic_loss(value: Tensor, target: Tensor) -> Tensor:
    """Mean squared error, summed over critics. value: (C, B); target: (B,)."""
    return (value - target).square().mean(1).sum()


def actor_loss(log_prob: Tensor, value: Tensor, temperature: Tensor) -> Tensor:
    """Mean of α ln p_c − min over critics of Q, through the whole chain. log_prob: (B,); value: (C, B)."""
    return (temperature * log_prob - value.min(0).values).mean()


def temperature_loss(log_temperature: Tensor, log_prob: Tensor, target_entropy: float) -> Tensor:
    """Of α = exp(log_temperature): rises while −ln p_c is below ``target_entropy``. log_prob: (B,)."""
    return -(log_temperature.exp() * (log_prob.detach() + target_entropy)).mean()


def proximal(action: Tensor, played: Tensor) -> Tensor:
    """Mean over rows of ‖a_θ − a‖², which holds an offline-to-online policy near its data. Both (B, R, D)."""
    return (action - played).square().sum((1, 2)).mean()
