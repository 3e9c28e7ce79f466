"""Supervised flow matching (Eq. 3): the whole model, VLM included, learns the demonstrations.

Axes: B batch, H horizon, D action numbers.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core import seeds
from pirl_core.data.lerobot import Frames, action_chunks
from pirl_core.flow import path
from pirl_core.params.sections import Sft
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy
from pirl_core.policy.layers import way_to_run
from pirl_core.policy.precision import round_weights
from pirl_core.sft.augment import augment, draw, draw_shift
from pirl_core.training.learner import Learner, compute_device, cosine_factor
from pirl_core.training.ranks import require_share, summed
from pirl_core.training.session import Session
from pirl_core.types import Observation


def train_sft(
    policy: FlowPolicy, frames: Frames, cameras: Sequence[str], sft: Sft, seed: int, session: Session
) -> None:
    """Train ``policy`` in place. Batch b of step t depends on (seed, t) alone; each rank takes its share of it.

    cameras: names of the frames' ones.
    """
    require_share("sft.batch_size", sft.batch_size)
    policy.train()
    round_weights(policy, sft.precision)
    policy.backbone.run_layer = way_to_run(sft.activation_checkpointing, sft.compile, compute_device())
    learner = Learner(
        FlowMatching(policy.backbone),
        [{"params": [p for p in policy.backbone.parameters() if p.requires_grad], "lr": sft.lr}],
        sft.weight_decay,
        sft.max_grad_norm,
        sft.precision,
        session.supervision.max_skipped_updates,
        unused=True,  # the VLM's last layer acts through its keys and values; what follows them is never read
        ema_decay=sft.ema_decay,
    )
    policy.to(learner.device)
    numbers = session.restore(learner)
    if numbers is None:
        numbers = {"step": 0}
        session.tracker.log(0, demonstrated(frames), ())
    learner.release()
    chunk_index, chunk_real = action_chunks(frames, policy.backbone.shape.horizon)
    losses: list[float] = []
    skipped = 0
    for step in range(numbers["step"], sft.steps):
        rng = seeds.generator("batch", seed, step)
        # Dropout's masks come from the library's own generator.
        torch.manual_seed(seeds.integer("sft_dropout", seed, step, session.ranks.rank))
        rows = rng.choice(len(frames.state), sft.batch_size, replace=len(frames.state) < sft.batch_size)
        shift = draw_shift(rng, sft.batch_size, sft)
        noise = rng.standard_normal((sft.batch_size, *policy.chunk_shape), np.float32)
        tau = path.sample_tau(rng, sft.batch_size, sft.tau_alpha, sft.tau_beta)
        change = draw(rng, shift, sft)
        mine = np.arange(session.ranks.rank, sft.batch_size, session.ranks.size)
        largest = -(-sft.batch_size // session.ranks.size)
        # Equally many on all ranks, since FSDP's compute in step; for an empty one stands a row that counts nothing.
        pieces = np.array_split(mine, -(-largest // (sft.micro_batch_size or largest)))
        total = torch.zeros((), device=learner.device)
        for number, own in enumerate(pieces, 1):
            piece = own if len(own) else mine[:1]
            batch = Batch(
                Observation(
                    augment(frames.images[rows[piece]], cameras, change.of(piece), sft),
                    frames.state[rows[piece]],
                    [frames.tasks[index] for index in frames.task_index[rows[piece]]],
                ),
                torch.from_numpy(frames.actions[chunk_index[rows[piece]]]),
                torch.from_numpy(noise[piece]),
                tau[piece],
                torch.from_numpy(chunk_real[rows[piece]]),
            )
            # Weighed by its share of the batch's real steps, the sum over parts and ranks is the batch's mean.
            share = chunk_real[rows[own]].sum() / max(1, chunk_real[rows].sum())
            last = number == len(pieces)
            with nullcontext() if last else learner.accumulating():
                loss = batch_loss(learner, policy, batch) * share
                total += loss.detach()
                loss = loss * session.ranks.size  # DDP averages over ranks
                if not last:
                    learner.accumulate(loss)
        whole = summed(total).item()
        factor = cosine_factor(step, sft.steps, sft.warmup_steps, sft.final_lr_fraction)
        norm = learner.step(loss, whole, factor)
        if norm is None:
            skipped += 1
        else:
            losses.append(whole)
        if (step + 1) % sft.log_every == 0 or step + 1 == sft.steps:
            metrics = {"charts/learning_rate": sft.lr * factor, "charts/skipped_updates": float(skipped)}
            if losses:
                metrics["losses/flow_matching"] = float(np.mean(losses))
            if norm is not None:
                metrics["charts/grad_norm"] = norm
            session.tracker.log(step + 1, metrics, ("losses/flow_matching",))
            if skipped:
                session.tracker.warn(step + 1, f"{skipped} updates skipped: loss or gradient not finite")
            losses, skipped = [], 0
            session.save_if_due(step + 1, learner, {"step": step + 1})
    learner.use_average()
    learner.gather()
    policy.eval()


def demonstrated(frames: Frames) -> dict[str, float]:
    """How many demonstrations there are, and how many steps one takes: the expert's range (π_RL Fig. 16)."""
    lengths = np.unique(frames.episode, return_counts=True)[1]
    return {
        "data/episodes": float(len(lengths)),
        "data/episodic_length": float(lengths.mean()),
        "data/episodic_length_std": float(lengths.std()),
    }


class Batch(NamedTuple):
    """This rank's part of a batch. action: (B, H, D) in simulator units; noise: (B, H, D); tau: (B,); real: (B, H)."""

    observation: Observation
    action: Tensor
    noise: Tensor
    tau: Tensor
    real: Tensor


def batch_loss(learner: Learner, policy: FlowPolicy, batch: Batch) -> Tensor:
    """Flow-matching loss, the mean over the real steps of ``batch``."""
    device = learner.device
    state = torch.from_numpy(batch.observation.state).to(device)
    action = policy.normalize_actions(batch.action.to(device), state)
    noise, tau = batch.noise.to(device), batch.tau.to(device)
    velocity = learner.module(policy.inputs(batch.observation), path.interpolate(action, noise, tau), tau)
    return path.flow_matching_loss(velocity, path.velocity_target(action, noise), batch.real.to(device))
