"""The denoising chain: one transition function both samples it and scores it.

Axes: B batch, K denoising steps, T scored steps, H horizon, D action numbers, W expert width.
Time: τ_k = k/K from noise (0) to action (1). ``stochastic`` (B, K) bool marks the steps that draw noise; the others are
ODE steps. All of them: one-layer (Eq. 5) and standard two-layer MDP (Eq. 10 to 12). One a row: hybrid ODE-SDE
(Sec. 4.2.3). None: evaluation.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pirl_core.flow import noise as rules
from pirl_core.flow.noise import Weights

Velocity = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(x (B, H, D), tau (B,)) → velocity (B, H, D), features (B, H, W)."""
WIDEST = 3.0
"""Std that a draw of a bounded chain is from its mean at most."""
LearnedStd = Callable[[Tensor], Tensor]
"""features (B, H, W) → raw output of the noise net (B, H, D)."""


class Noise(NamedTuple):
    """A noise rule by its name, with its present strength: ``level``, or the std bounds where a net learns it.

    bound: the chain is kept within ± this, as ReinFlow has it: mean and last state are clamped, and a draw is within
    three std of its mean; the density stays that of the normal. None: it is not.
    """

    rule: str
    level: float
    min_std: float
    max_std: float
    bound: float | None = None


class Score(NamedTuple):
    """Per element: log_prob, entropy (B, T, H, D), both 0 where the step is deterministic. features: (B, T, H, W)."""

    log_prob: Tensor
    entropy: Tensor
    features: Tensor


def weights(noise: Noise, tau: Tensor, delta: float, features: Tensor, noise_net: LearnedStd | None) -> Weights:
    """The rule's triple at times tau (B, 1, 1)."""
    rule = rules.rule_of(noise.rule)
    if not rules.learns_std(noise.rule):
        return rule(tau, delta, noise.level)
    if noise_net is None:
        raise ValueError(f"the noise rule {noise.rule} needs a noise net")
    # The net may run in bf16; its std enters a log-density and stays fp32.
    raw = noise_net(features).float()
    return rule(tau, delta, rules.bounded_std(raw, noise.min_std, noise.max_std))


def transition(
    velocity: Velocity, x: Tensor, step: Tensor, steps: int, stochastic: Tensor, noise: Noise, net: LearnedStd | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and std (B, H, D) of the next state, and the expert's features (B, H, W).

    x: (B, H, D). step: (B,) index k of each row. stochastic: (B,) bool; rows that are False take the ODE step.
    """
    delta = 1 / steps
    time = step.to(x.dtype) * delta
    v, features = velocity(x, time)
    v = v.to(x.dtype)
    tau = time[:, None, None]
    drawn, plain = weights(noise, tau, delta, features, net), rules.ode(tau, delta)
    here = stochastic[:, None, None]
    w_a = torch.where(here, drawn.action, plain.action)
    w_e = torch.where(here, drawn.noise, plain.noise)
    std = torch.where(here, drawn.std, plain.std)
    mean = w_a * (x + (1 - tau) * v) + w_e * (x - tau * v)
    if noise.bound is not None:
        mean = mean.clamp(-noise.bound, noise.bound)
    return mean, std.expand_as(mean), features


def sample(
    velocity: Velocity, normals: Tensor, stochastic: Tensor, noise: Noise, noise_net: LearnedStd | None
) -> tuple[Tensor, Score]:
    """Run the chain: its states (B, K+1, H, D) from noise to action, and the score of all K steps.

    normals: (B, K+1, H, D) standard normal, the first is the start A⁰. stochastic: (B, K) bool.
    """
    count = stochastic.shape[1]
    states, parts = [normals[:, 0]], []
    for k in range(count):
        step = torch.full((len(normals),), k, device=normals.device)
        mean, std, features = transition(velocity, states[-1], step, count, stochastic[:, k], noise, noise_net)
        if noise.bound is None:
            states.append(mean + std * normals[:, k + 1])
        else:
            drawn = mean + std * normals[:, k + 1].clamp(-WIDEST, WIDEST)
            states.append(drawn.clamp(-noise.bound, noise.bound) if k == count - 1 else drawn)
        parts.append((log_density(states[-1], mean, std), entropy(std), features))
    return torch.stack(states, 1), Score(*(torch.stack(part, 1) for part in zip(*parts, strict=True)))


def score(
    velocity: Velocity, states: Tensor, steps: Tensor, stochastic: Tensor, noise: Noise, noise_net: LearnedStd | None
) -> Score:
    """Log-density of recorded transitions under the present parameters.

    states: (B, K+1, H, D). steps: (B, T) which transitions to score. stochastic: (B, K) as at sampling.
    """
    rows = torch.arange(len(states), device=states.device)
    count = stochastic.shape[1]
    parts = []
    for step in steps.unbind(1):
        mean, std, features = transition(
            velocity, states[rows, step], step, count, stochastic[rows, step], noise, noise_net
        )
        parts.append((log_density(states[rows, step + 1], mean, std), entropy(std), features))
    return Score(*(torch.stack(part, 1) for part in zip(*parts, strict=True)))


def log_density(x: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normal(mean, std).log_prob(x) per element; a deterministic element (std = 0) contributes 0."""
    random = std > 0
    safe = torch.where(random, std, 1)
    value = -0.5 * ((x - mean) / safe).square() - safe.log() - 0.5 * math.log(2 * math.pi)
    return torch.where(random, value, 0)


def entropy(std: Tensor) -> Tensor:
    """Entropy of a normal per element, 0 where std = 0."""
    random = std > 0
    return torch.where(random, 0.5 * math.log(2 * math.pi * math.e) + torch.where(random, std, 1).log(), 0)


def stochastic_steps(mdp: str, hybrid_draw: str, uniforms: Tensor, steps: int) -> Tensor:
    """Which steps draw noise: (B, K) bool.

    one_layer, two_layer: all. hybrid: one a row, drawn by uniforms (B,) in [0, 1); ``hybrid_draw`` env draws for each
    row, batch lets the first row's draw serve all (the official code's habit).
    """
    count = len(uniforms)
    if mdp != "hybrid":
        return torch.ones(count, steps, dtype=torch.bool, device=uniforms.device)
    index = (uniforms * steps).long().clamp(max=steps - 1)
    if hybrid_draw == "batch":
        index = index[:1].expand(count)
    return torch.nn.functional.one_hot(index, steps).bool()


def scored_steps(mdp: str, stochastic: Tensor) -> Tensor:
    """Indices (B, T) of the transitions whose density enters the ratio: the drawn one (hybrid) or all K."""
    if mdp == "hybrid":
        return stochastic.int().argmax(1, keepdim=True)
    return torch.arange(stochastic.shape[1], device=stochastic.device).expand(len(stochastic), -1)


def reduce_log_prob(log_prob: Tensor, start: Tensor, mdp: str, reduction: str) -> Tensor:
    """One log π a ratio. log_prob: (B, T, R, A) of the real dimensions only; start: (B, R, A) the chain's A⁰ → (B, N).

    one_layer: N = 1, Eq. 5 with its constant first term log N(A⁰; 0, I). two_layer: N = K ratios. hybrid: N = 1.
    reduction: sum is the exact joint; official is the released code's (for one_layer the mean over the K + 1 terms,
    then the sum over the chunk, so the log-ratio is 1/(K + 1) of Eq. 5); mean averages over everything (ReinFlow).
    """
    if mdp == "one_layer":
        first = log_density(start, torch.zeros_like(start), torch.ones_like(start))
        terms = torch.cat([first[:, None], log_prob], 1)
        joint = terms.sum(1) if reduction == "sum" else terms.mean(1)
        log_prob = joint[:, None]
    return log_prob.mean((2, 3)) if reduction == "mean" else log_prob.sum((2, 3))
