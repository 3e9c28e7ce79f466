"""The step that all noise rules of flow samplers share; ``flow.rules`` has a file for each.

With â = x + (1 − τ) v (clean action) and ε̂ = x − τ v (noise), every sampler steps from τ to τ' = τ + δ by

    x' = w_a â + w_e ε̂ + std · N(0, I)

and a rule is the triple (w_a, w_e, std). Axes: tau is any shape that broadcasts against (B, H, D).
Time: τ = 0 is noise, τ = 1 is the action; δ = 1/K and τ = k/K with k = 0 … K − 1, so 1 − τ never vanishes.
"""

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pirl_core import named

Rule = Callable[[Tensor, float, Any], "Weights"]
"""(tau, delta, level or std) → weights."""


class Weights(NamedTuple):
    """Weights of the clean action and of the noise, and the standard deviation of the fresh noise."""

    action: Tensor
    noise: Tensor
    std: Tensor


def ode(tau: Tensor, delta: float) -> Weights:
    """Forward Euler (Eq. 6): w_a â + w_e ε̂ equals x + v δ."""
    return Weights(tau + delta, 1 - tau - delta, torch.zeros_like(tau))


def sde(tau: Tensor, delta: float, variance_rate: Tensor) -> Weights:
    """Any SDE with the ODE's marginals (Eq. 7): the drift gains (σ²/2) ∇log p with ∇log p = −ε̂ / (1 − τ)."""
    drift = variance_rate * delta / (2 * (1 - tau))
    return Weights(tau + delta, 1 - tau - delta - drift, (variance_rate * delta).sqrt())


def bounded_std(raw: Tensor, min_std: float, max_std: float) -> Tensor:
    """std of the noise net: log-variance is squashed by tanh between ln(min²) and ln(max²) (ReinFlow, π_RL App. J).

    The paper's table names the bounds "log-var"; they bound the standard deviation. raw: any shape → same shape.
    """
    low, high = 2 * math.log(min_std), 2 * math.log(max_std)
    return torch.exp((low + (high - low) * (torch.tanh(raw) + 1) / 2) / 2)


def scheduled(schedule: str, start: float, final: float, progress: float) -> float:
    """The noise level after a fraction ``progress`` of training.

    constant: start. linear: from start to final. reinflow: start for 35 % of training, then a cosine down to final
    (ReinFlow moves only the upper bound of the learned std, to 0.3 min + 0.7 max).
    """
    if schedule == "constant":
        return start
    if schedule == "linear":
        return start + (final - start) * progress
    decay = max(0.0, (progress - 0.35) / 0.65)
    return final + (start - final) * (1 + math.cos(math.pi * decay)) / 2


@cache
def rule_of(name: str) -> Rule:
    """The function ``weights`` of the rule that a short or a dotted name stands for. Raises LookupError for none."""
    rule: Rule = named.part(named.RULES, name).weights
    return rule


@cache
def learns_std(name: str) -> bool:
    """Whether the rule takes the noise net's std, where others take a level."""
    return list(inspect.signature(rule_of(name)).parameters)[2] == "std"
