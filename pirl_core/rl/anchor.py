"""RL-Co's anchor (arXiv 2602.12628, stage II): L = L_PPO(sim) + β L_SFT(D_real), so that what real demonstrations
taught is not forgotten while RL improves the policy in simulation.

A fresh batch of demonstrations for each minibatch of PPO, a function of (training seed, iteration, minibatch): equal
on any number of ranks, in any number of parts, and after a resume.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pirl_core import seeds
from pirl_core.data.lerobot import Frames
from pirl_core.flow import path
from pirl_core.params.sections import Sft
from pirl_core.policy.flow_policy import FlowPolicy, Noisy
from pirl_core.sft.batches import Samples, batch_of, draw_samples, noised, pieces_of, share_of, shown
from pirl_core.training.ranks import Ranks


class Question(NamedTuple):
    """A rank's part of a batch. target, real: of the velocity at ``point``. share: of the batch's real steps."""

    point: Noisy
    target: Tensor
    real: Tensor
    share: float

    def loss(self, velocity: Tensor) -> Tensor:
        """Its part of the batch's flow-matching loss (Eq. 3): the sum over parts and ranks is the batch's mean."""
        return path.flow_matching_loss(velocity, self.target, self.real) * self.share


class Anchor:
    """Demonstrations to stay true to, drawn, augmented and noised as SFT does (``sft``), ``size`` a minibatch."""

    def __init__(
        self, policy: FlowPolicy, frames: Frames, cameras: Sequence[str], sft: Sft, size: int, seed: int
    ) -> None:
        self._policy = policy
        self._data = shown(frames, cameras, policy.backbone.shape.horizon)
        self._sft = sft
        self._size = size
        self._seed = seed

    def samples(self, iteration: int, minibatch: int) -> Samples:
        rng = seeds.generator("anchor", self._seed, iteration, minibatch)
        return draw_samples(rng, len(self._data.frames.state), self._size, self._policy.chunk_shape, self._sft)

    def questions(
        self, iteration: int, minibatch: int, parts: int, ranks: Ranks, device: torch.device
    ) -> Iterator[Question]:
        """This rank's part of the batch, in ``parts`` parts; for an empty one stands a sample that counts nothing."""
        samples = self.samples(iteration, minibatch)
        for own in pieces_of(ranks.rank, ranks.size, self._size, parts):
            batch = batch_of(self._data, samples, own if len(own) else np.zeros(1, np.int64), self._sft)
            point, target = noised(self._policy, batch, device)
            yield Question(point, target, batch.real.to(device), share_of(self._data, samples, own))
