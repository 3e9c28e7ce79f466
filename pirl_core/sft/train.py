"""Supervised flow matching (Eq. 3): the whole model, VLM included, learns the demonstrations."""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from pirl_core import seeds
from pirl_core.data.lerobot import Frames
from pirl_core.flow import path
from pirl_core.params.sections import Sft
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy
from pirl_core.policy.layers import way_to_run
from pirl_core.policy.precision import round_weights
from pirl_core.sft.batches import Batch, batch_of, draw_samples, mixed, noised, pieces_of, share_of, shown
from pirl_core.sft.shortcut import consistent, with_steps
from pirl_core.training.learner import Learner, compute_device, cosine_factor
from pirl_core.training.ranks import require_share, summed
from pirl_core.training.session import Session


def train_sft(
    policy: FlowPolicy,
    frames: Frames,
    cameras: Sequence[str],
    sft: Sft,
    seed: int,
    session: Session,
    sim: int | None = None,
) -> None:
    """Train ``policy`` in place. Batch b of step t depends on (seed, t) alone; each rank takes its share of it.

    cameras: names of the frames' ones. sim: so many frames, the first, are of one domain, the others of another, and
    ``sft.sim_share`` says how often a sample is of the first; None: all are of one.
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
    data, count = shown(frames, cameras, policy.backbone.shape.horizon), len(frames.state)
    # Equally many parts on all ranks, since FSDP's compute in step.
    largest = -(-sft.batch_size // session.ranks.size)
    parts = -(-largest // (sft.micro_batch_size or largest))
    pieces = pieces_of(session.ranks.rank, session.ranks.size, sft.batch_size, parts)
    losses: list[float] = []
    skipped = 0
    for step in range(numbers["step"], sft.steps):
        rng = seeds.generator("batch", seed, step)
        # Dropout's masks come from the library's own generator.
        torch.manual_seed(seeds.integer("sft_dropout", seed, step, session.ranks.rank))
        samples = draw_samples(rng, sim or count, sft.batch_size, policy.chunk_shape, sft)
        if sim is not None and sft.sim_share is not None:
            chance = seeds.generator("mixture", seed, step)
            samples = samples._replace(rows=mixed(chance, samples.rows, sim, count, sft.sim_share))
        if getattr(policy.backbone, "stepped", False):
            samples = with_steps(seeds.generator("shortcut", seed, step), samples)
        total = torch.zeros((), device=learner.device)
        for number, own in enumerate(pieces, 1):
            # For an empty one stands a row that counts nothing.
            batch = batch_of(data, samples, own if len(own) else pieces[0][:1], sft)
            last = number == len(pieces)
            with nullcontext() if last else learner.accumulating():
                loss = batch_loss(learner, policy, batch) * share_of(data, samples, own)
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


def batch_loss(learner: Learner, policy: FlowPolicy, batch: Batch) -> Tensor:
    """Flow-matching loss, and a shortcut model's own, the mean over the real steps of ``batch``."""
    point, target = noised(policy, batch, learner.device)
    if point.step is not None:
        target = consistent(learner, point, target)
    return path.flow_matching_loss(learner.module(*point), target, batch.real.to(learner.device))
