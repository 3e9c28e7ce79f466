"""Batches of demonstrations: what is drawn for one, and the rank's part of it as the network gets it.

Axes: B batch, H horizon, D action numbers of the network, A of the simulator, N frames.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core.data.lerobot import Frames, action_chunks
from pirl_core.flow import path
from pirl_core.params.sections import Sft
from pirl_core.policy.flow_policy import FlowPolicy, Noisy
from pirl_core.sft.augment import Draw, augment, draw, draw_shift
from pirl_core.types import Observation


class Shown(NamedTuple):
    """Frames to learn from. cameras: names of the frames' ones. chunk, real: (N, H) as ``action_chunks`` gives them."""

    frames: Frames
    cameras: Sequence[str]
    chunk: np.ndarray
    real: np.ndarray


class Samples(NamedTuple):
    """A batch as it is drawn, before it is shared out, so that it depends neither on ranks nor on its parts.

    rows: (B,) of the frames. noise: (B, H, D). tau: (B,). step: (B,) as in ``Noisy``.
    """

    rows: np.ndarray
    noise: np.ndarray
    tau: Tensor
    change: Draw
    step: Tensor | None = None


class Batch(NamedTuple):
    """This rank's part of a batch.

    action: (B, H, A) in simulator units. noise: (B, H, D). tau, step: (B,). real: (B, H).
    """

    observation: Observation
    action: Tensor
    noise: Tensor
    tau: Tensor
    real: Tensor
    step: Tensor | None = None


def shown(frames: Frames, cameras: Sequence[str], horizon: int) -> Shown:
    return Shown(frames, cameras, *action_chunks(frames, horizon))


def draw_samples(rng: np.random.Generator, count: int, size: int, chunk_shape: tuple[int, int], sft: Sft) -> Samples:
    """``size`` samples of ``count`` frames, none twice if there are enough. Rows, shift, noise, times and the rest of
    the augmentation, in this order."""
    rows = rng.choice(count, size, replace=count < size)
    shift = draw_shift(rng, size, sft)
    noise = rng.standard_normal((size, *chunk_shape), np.float32)
    tau = path.sample_tau(rng, size, sft.tau_alpha, sft.tau_beta)
    return Samples(rows, noise, tau, draw(rng, shift, sft))


def mixed(rng: np.random.Generator, rows: np.ndarray, sim: int, count: int, share: float) -> np.ndarray:
    """Each of ``rows`` (B,), of the first ``sim`` frames, stays with probability ``share`` = α; else one of the others
    up to ``count`` takes its place (RL-Co, arXiv 2602.12628: L = α L(D_sim) + (1 − α) L(D_real))."""
    stays, others = rng.random(len(rows)) < share, rng.integers(sim, count, len(rows))
    return np.where(stays, rows, others)


def pieces_of(rank: int, ranks: int, size: int, count: int) -> list[np.ndarray]:
    """This rank's samples of ``size``, in ``count`` parts, some of which may be empty."""
    return np.array_split(np.arange(rank, size, ranks), count)


def batch_of(data: Shown, samples: Samples, piece: np.ndarray, sft: Sft) -> Batch:
    """The samples whose numbers are ``piece``, augmented."""
    frames, rows = data.frames, samples.rows[piece]
    return Batch(
        Observation(
            augment(frames.images[rows], data.cameras, samples.change.of(piece), sft),
            frames.state[rows],
            [frames.tasks[index] for index in frames.task_index[rows]],
        ),
        torch.from_numpy(frames.actions[data.chunk[rows]]),
        torch.from_numpy(samples.noise[piece]),
        samples.tau[piece],
        torch.from_numpy(data.real[rows]),
        None if samples.step is None else samples.step[piece],
    )


def share_of(data: Shown, samples: Samples, own: np.ndarray) -> float:
    """Of the batch's real steps, those of the samples ``own``: weighed by it, the means of parts and ranks add up to
    the batch's mean."""
    share: float = data.real[samples.rows[own]].sum() / max(1, data.real[samples.rows].sum())
    return share


def noised(policy: FlowPolicy, batch: Batch, device: torch.device) -> tuple[Noisy, Tensor]:
    """What the network is asked, and the velocity (B, H, D) that flow matching would have it answer (Eq. 3)."""
    state = torch.from_numpy(batch.observation.state).to(device)
    action = policy.normalize_actions(batch.action.to(device), state)
    noise, tau = batch.noise.to(device), batch.tau.to(device)
    step = None if batch.step is None else batch.step.to(device)
    point = Noisy(policy.inputs(batch.observation), path.interpolate(action, noise, tau), tau, step)
    return point, path.velocity_target(action, noise)
