"""One iteration's gradient steps: minibatches over the decisions of all ranks, PPO's losses, the KL stop.

Axes: N decisions of this rank. The rollout's context is reused by every epoch: the VLM does not run again.
"""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.flow.chain import Noise
from pirl_core.learner import Learner, cosine_factor
from pirl_core.params import Rl
from pirl_core.policy.context import Context
from pirl_core.policy.flow_policy import Evaluation, Process
from pirl_core.ranks import largest, summed
from pirl_core.rl.collect import Rollout, Share
from pirl_core.rl.losses import policy_loss, value_loss


class Minibatch(NamedTuple):
    """This rank's rows of a minibatch. weight: their part of it; 0 where a stand-in row keeps the ranks in step."""

    rows: Rollout
    weight: float


def minibatches(rollout: Rollout, share: Share, rng: np.random.Generator, size: int) -> Iterator[Minibatch]:
    """One pass over the decisions of all ranks in a fresh permutation; the split does not depend on their number."""
    for chosen in np.array_split(rng.permutation(share.total), -(-share.total // size)):
        own = share.position[chosen]
        own = own[own >= 0]
        weight = len(own) / len(chosen)
        rows = torch.from_numpy(own if len(own) else np.zeros(1, np.int64)).to(rollout.advantage.device)
        yield Minibatch(take(rollout, rows), weight)


def update(
    learner: Learner,
    rollout: Rollout,
    share: Share,
    noise: Noise,
    process: Process,
    rl: Rl,
    rng: np.random.Generator,
    warming: bool,
    iteration: int,
) -> dict[str, float]:
    """``update_epochs`` passes over the rollout in fresh permutations; stops early once a minibatch exceeds target_kl.

    ``warming``: only the critic learns. Returns the means of the losses over the minibatches.
    """
    factor = 1.0
    if rl.lr_schedule == "cosine":
        factor = cosine_factor(iteration, rl.iterations, 0, rl.final_lr_fraction)
    rows: list[dict[str, float]] = []
    first_error: float | None = None
    skipped = 0
    for batch, weight in chain.from_iterable(
        minibatches(rollout, share, rng, rl.minibatch_size) for _ in range(rl.update_epochs)
    ):
        with learner.accelerator.autocast():
            result = learner.module(batch.context, batch.states, batch.stochastic, noise, process)
        if first_error is None:
            error = (result.log_prob - batch.log_prob).detach().exp().sub(1).abs().max()
            first_error = largest(error if weight else error.new_zeros(())).item()
        losses = losses_of(result, batch, process, rl)
        # Every rank weighs its rows by their part of the minibatch: the sums are the minibatch's means.
        means = dict(zip(losses, summed(torch.stack([part.detach() for part in losses.values()]) * weight).tolist()))
        if rl.target_kl is not None and means["losses/approx_kl"] > rl.target_kl and not warming:
            break
        actor = 0.0 if warming else 1.0
        weights = {
            "losses/policy_loss": actor,
            "losses/entropy": -actor * rl.entropy_coef,
            "losses/value_loss": rl.value_coef if process.critic is not None else 0.0,
        }
        objective = sum((losses[name] * by for name, by in weights.items()), torch.zeros((), device=learner.device))
        total = sum(means[name] * by for name, by in weights.items())
        norm = learner.step(objective * weight * learner.ranks.size, total, factor)
        if norm is None:
            skipped += 1
        else:
            rows.append({**means, "charts/grad_norm": norm})
    metrics = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]} if rows else {}
    return metrics | {
        "losses/first_ratio_error": first_error or 0.0,
        "charts/updates": float(len(rows)),
        "charts/skipped_updates": float(skipped),
        "charts/learning_rate": rl.actor_lr * factor,
    }


def losses_of(result: Evaluation, batch: Rollout, process: Process, rl: Rl) -> dict[str, Tensor]:
    """The terms of the objective and PPO's diagnostics, each a mean over the rows, by their names in the log."""
    policy = policy_loss(result.log_prob, batch.log_prob, batch.advantage, rl.clip_ratio)
    value = policy.loss.new_zeros(())
    if process.critic is not None:
        value = value_loss(result.value, batch.value, batch.target, rl.value_clip, rl.huber_delta)
    return {
        "losses/policy_loss": policy.loss,
        "losses/value_loss": value,
        "losses/entropy": result.entropy.mean(),
        "losses/approx_kl": policy.approx_kl,
        "losses/clipfrac": policy.clipfrac,
    }


def take(rollout: Rollout, rows: Tensor) -> Rollout:
    """The given decisions of a rollout."""
    context = Context(*(part[rows] for part in rollout.context))
    return Rollout(context, *(part[rows] for part in rollout[1:]))
