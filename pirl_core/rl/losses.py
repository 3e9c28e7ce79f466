"""PPO's losses as pure functions. Axes: B samples, N log-probabilities (ratios) a sample."""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class PolicyLoss(NamedTuple):
    """loss: scalar. approx_kl: the k3 estimate E[ρ − 1 − log ρ]. clipfrac: share of ratios outside the clip range."""

    loss: Tensor
    approx_kl: Tensor
    clipfrac: Tensor


def policy_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> PolicyLoss:
    """Clipped surrogate (Eq. 14), ρ as in Eq. 15. log_prob, old_log_prob: (B, N); advantage: (B,), shared by its N."""
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    gain = torch.minimum(ratio * advantage[:, None], ratio.clamp(1 - clip, 1 + clip) * advantage[:, None])
    with torch.no_grad():
        approx_kl = (ratio - 1 - log_ratio).mean()
        clipfrac = ((ratio - 1).abs() > clip).float().mean()
    return PolicyLoss(-gain.mean(), approx_kl, clipfrac)


def value_loss(value: Tensor, old_value: Tensor, target: Tensor, clip: float | None, huber_delta: float) -> Tensor:
    """Huber loss to the returns; with ``clip`` the worse of the plain and the clipped estimate. All (B,)."""
    plain = F.huber_loss(value, target, reduction="none", delta=huber_delta)
    if clip is None:
        return plain.mean()
    clipped = old_value + (value - old_value).clamp(-clip, clip)
    return torch.maximum(plain, F.huber_loss(clipped, target, reduction="none", delta=huber_delta)).mean()


def explained_variance(value: np.ndarray, target: np.ndarray) -> float:
    """1 − Var[target − value] / Var[target]; 0 where the target does not vary. Both (N,)."""
    variance = target.var()
    return 0.0 if variance == 0 else float(1 - (target - value).var() / variance)
