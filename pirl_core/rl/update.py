"""One iteration's gradient steps: minibatches over the decisions of all ranks, PPO's losses, the KL stop.

Axes: N decisions of this rank, B rows of a part. The rollout's contexts are reused by every epoch: where they fit the
budget, the VLM does not run again.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain, tee
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.flow.chain import Noise
from pirl_core.params.sections import Rl
from pirl_core.policy.flow_policy import Evaluation, Process
from pirl_core.rl.anchor import Anchor
from pirl_core.rl.collect import Rollout, Samples, Share
from pirl_core.rl.losses import policy_loss, value_loss
from pirl_core.training.learner import Learner, cosine_factor
from pirl_core.training.ranks import largest, summed

DIAGNOSTICS = ("losses/approx_kl", "losses/clipfrac")
"""What tells how far an iteration went: of the minibatch that stopped it too, or they would say it stood still."""

SFT_LOSS = "losses/sft_loss"


class Part(NamedTuple):
    """Rows (B,) of this rank that are computed on at once. weight: their part of the minibatch; 0 where a stand-in row
    keeps the ranks in step. number: which of the ``parts`` of its minibatch, from 1 on."""

    rows: np.ndarray
    weight: float
    number: int
    parts: int

    @property
    def last(self) -> bool:
        return self.number == self.parts


def minibatches(share: Share, size: int) -> int:
    """Of one pass over the decisions of all ranks, of ``size`` at most."""
    return -(-len(share.owner) // size)


def parts(share: Share, rng: np.random.Generator, size: int, micro: int | None) -> Iterator[Part]:
    """One pass over the decisions of all ranks in a fresh permutation; the split does not depend on their number.

    Each minibatch comes in parts of at most ``micro`` rows a rank; None: as one part. All ranks have equally many parts
    of it, since FSDP's ranks compute in step.
    """
    total = len(share.owner)
    for chosen in np.array_split(rng.permutation(total), minibatches(share, size)):
        own = share.position[chosen]
        most = np.bincount(share.owner[chosen]).max()
        pieces = np.array_split(own[own >= 0], -(-most // (micro or most)))
        for number, piece in enumerate(pieces, 1):
            stand_in = np.zeros(1, np.int64)
            yield Part(piece if len(piece) else stand_in, len(piece) / len(chosen), number, len(pieces))


class Tally:
    """Sums over the parts of one minibatch: parts and ranks weigh their rows by their part of the minibatch, so they
    are the minibatch's means."""

    def __init__(self, device: torch.device) -> None:
        self.error = torch.zeros((), device=device)
        self.sums: dict[str, Tensor] = {}

    def add(self, losses: dict[str, Tensor], log_ratio: Tensor, weight: float) -> None:
        for name, loss in losses.items():
            self.note(name, loss * weight)
        if weight:
            self.error = torch.maximum(self.error, log_ratio.detach().exp().sub(1).abs().max())

    def note(self, name: str, part: Tensor) -> None:
        """A loss that is weighed already."""
        self.sums[name] = self.sums.get(name, 0) + part.detach()

    def take(self) -> tuple[dict[str, float], float]:
        """The means, and how far a ratio is from 1 at most, of all ranks; then it starts anew."""
        means = dict(zip(self.sums, summed(torch.stack(list(self.sums.values()))).tolist()))
        error = largest(self.error).item()
        self.error, self.sums = torch.zeros_like(self.error), {}
        return means, error


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
    anchor: Anchor | None = None,
) -> dict[str, float]:
    """``update_epochs`` passes over the rollout in fresh permutations; stops early once a minibatch exceeds target_kl.

    ``warming``: only the critic learns; the actor's terms weigh 0, since DDP wants every parameter in the loss.
    ``anchor``: each minibatch learns a batch of its demonstrations too; ``learner`` then has an `AnchoredPolicy`.
    Returns the means over the minibatches: of what measures the step (DIAGNOSTICS) with the one that stopped it, of
    the losses without.
    """
    factor = 1.0
    if rl.lr_schedule == "cosine":
        factor = cosine_factor(iteration, rl.iterations, 0, rl.final_lr_fraction)
    actor = 0.0 if warming else 1.0
    terms = {
        "losses/policy_loss": actor,
        "losses/entropy": -actor * rl.entropy_coef,
        "losses/value_loss": rl.value_coef if process.critic is not None else 0.0,
    }
    if rl.w2_coef:
        terms["losses/w2"] = actor * rl.w2_coef
    coef = actor * rl.sft_coef
    done: list[dict[str, float]] = []
    stopped: list[dict[str, float]] = []
    first_error: float | None = None
    skipped = minibatch = 0
    tally = Tally(learner.device)
    passes = (parts(share, rng, rl.minibatch_size, rl.micro_batch_size) for _ in range(rl.update_epochs))
    present, coming = tee(chain.from_iterable(passes))
    contexts = rollout.contexts.batches(part.rows for part in coming)
    for part in present:
        if anchor and part.number == 1:
            questions = anchor.questions(iteration, minibatch, part.parts, learner.ranks, learner.device)
            minibatch += 1
        with nullcontext() if part.last else learner.accumulating():
            batch = take(rollout.samples, part.rows)
            decisions = (next(contexts), batch.states, batch.stochastic, noise, process)
            question = next(questions) if anchor else None
            with learner.accelerator.autocast():
                if question:
                    result, velocity = learner.module(question.point, *decisions)
                else:
                    result = learner.module(*decisions)
            losses = losses_of(result, batch, process, rl)
            tally.add(losses, result.log_prob - batch.log_prob, part.weight)
            objective = sum((losses[name] * by for name, by in terms.items()), torch.zeros((), device=learner.device))
            objective = objective * part.weight
            if question:
                demonstrated = question.loss(velocity)
                tally.note(SFT_LOSS, demonstrated)
                objective = objective + coef * demonstrated
            objective = objective * learner.ranks.size
            if not part.last:
                learner.accumulate(objective)
                continue
        means, error = tally.take()
        first_error = error if first_error is None else first_error
        if rl.target_kl is not None and means["losses/approx_kl"] > rl.target_kl and not warming:
            learner.discard()
            stopped = [means]
            break
        total = sum(means[name] * by for name, by in terms.items()) + coef * means.get(SFT_LOSS, 0.0)
        norm = learner.step(objective, total, factor, ("critic",) if warming else ())
        if norm is None:
            skipped += 1
        else:
            done.append({**means, "charts/grad_norm": norm})
    metrics = {key: float(np.mean([row[key] for row in done])) for key in done[0]} if done else {}
    if stopped:
        metrics |= {key: float(np.mean([row[key] for row in done + stopped])) for key in DIAGNOSTICS}
    return metrics | {
        "losses/first_ratio_error": first_error or 0.0,
        "charts/updates": float(sum(row["charts/grad_norm"] > 0 for row in done)),
        "charts/epochs": (len(done) + skipped) / minibatches(share, rl.minibatch_size),
        "charts/skipped_updates": float(skipped),
        "charts/learning_rate": rl.actor_lr * factor,
    }


def losses_of(result: Evaluation, batch: Samples, process: Process, rl: Rl) -> dict[str, Tensor]:
    """The terms of the objective and PPO's diagnostics, each a mean over the rows, by their names in the log."""
    policy = policy_loss(result.log_prob, batch.log_prob, batch.advantage, rl.clip_ratio)
    value = policy.loss.new_zeros(())
    if process.critic is not None:
        value = value_loss(result.value, batch.value, batch.target, rl.value_clip, rl.huber_delta)
    held = {} if result.w2 is None else {"losses/w2": result.w2.mean()}
    return held | {
        "losses/policy_loss": policy.loss,
        "losses/value_loss": value,
        "losses/entropy": result.entropy.mean(),
        "losses/approx_kl": policy.approx_kl,
        "losses/clipfrac": policy.clipfrac,
    }


def take(samples: Samples, rows: np.ndarray) -> Samples:
    """The given decisions."""
    index = torch.from_numpy(rows).to(samples.states.device)
    return Samples(*(part[index] for part in samples))
