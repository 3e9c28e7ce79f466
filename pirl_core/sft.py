"""Supervised flow matching (Eq. 3): the whole model, VLM included, learns the demonstrations.

Axes: B batch, C cameras, H horizon, D action numbers.
"""

import numpy as np
import torch
from torch import Tensor

from pirl_core.data.lerobot import Frames, action_chunks
from pirl_core.flow import path
from pirl_core.learner import Learner, cosine_factor
from pirl_core.params import Sft
from pirl_core.policy.flow_policy import FlowMatching, FlowPolicy
from pirl_core.track import Tracker
from pirl_core.types import Observation


def shift_images(images: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Random-shift augmentation: move each sample's images by offsets (B, 2) pixels, repeating the border.

    images: (B, C, s, s, 3) uint8. One offset a sample, since cameras of one moment move together or not at all.
    """
    reach = int(np.abs(offsets).max(initial=0))
    if reach == 0:
        return images
    size = images.shape[2]
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    rows = np.arange(size) + reach + offsets[:, :1]
    columns = np.arange(size) + reach + offsets[:, 1:]
    sample = np.arange(len(images))
    # Advanced indices around the camera slice put that axis last but one: (B, s, s, C, 3).
    moved = padded[sample[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return np.moveaxis(moved, 3, 1)


def train_sft(policy: FlowPolicy, frames: Frames, sft: Sft, seed: int, tracker: Tracker) -> None:
    """Train ``policy`` in place. Batch b of step t depends on (seed, t) alone."""
    torch.manual_seed(seed)
    policy.train()
    learner = Learner(
        FlowMatching(policy.backbone),
        [{"params": [p for p in policy.backbone.parameters() if p.requires_grad], "lr": sft.lr}],
        sft.weight_decay,
        sft.max_grad_norm,
        sft.precision,
    )
    policy.to(learner.device)
    chunk_index, chunk_real = action_chunks(frames, policy.backbone.shape.horizon)
    losses: list[float] = []
    for step in range(sft.steps):
        rng = np.random.default_rng([seed, 1, step])
        rows = rng.choice(len(frames.state), sft.batch_size, replace=len(frames.state) < sft.batch_size)
        offsets = rng.integers(-sft.image_shift, sft.image_shift + 1, (sft.batch_size, 2))
        instructions = [frames.tasks[index] for index in frames.task_index[rows]]
        observation = Observation(shift_images(frames.images[rows], offsets), frames.state[rows], instructions)
        action = policy.normalize_actions(torch.from_numpy(frames.actions[chunk_index[rows]]).to(learner.device))
        loss = batch_loss(learner, policy, observation, action, chunk_real[rows], sft, rng)
        factor = cosine_factor(step, sft.steps, sft.warmup_steps, sft.final_lr_fraction)
        norm = learner.step(loss, factor)
        losses.append(loss.item())
        if (step + 1) % sft.log_every == 0 or step + 1 == sft.steps:
            metrics = {
                "losses/flow_matching": float(np.mean(losses)),
                "charts/learning_rate": sft.lr * factor,
                "charts/grad_norm": norm,
            }
            tracker.log(step + 1, metrics, ("losses/flow_matching",))
            losses = []
    policy.eval()


def batch_loss(
    learner: Learner,
    policy: FlowPolicy,
    observation: Observation,
    action: Tensor,
    real: np.ndarray,
    sft: Sft,
    rng: np.random.Generator,
) -> Tensor:
    """Flow-matching loss of one batch. action: (B, H, D) normalised; real: (B, H) bool."""
    noise = torch.from_numpy(rng.standard_normal(action.shape, np.float32)).to(action.device)
    tau = path.sample_tau(rng, len(action), sft.tau_alpha, sft.tau_beta).to(action.device)
    velocity = learner.module(policy.inputs(observation), path.interpolate(action, noise, tau), tau)
    target = path.velocity_target(action, noise)
    return path.flow_matching_loss(velocity, target, torch.from_numpy(real).to(action.device))
