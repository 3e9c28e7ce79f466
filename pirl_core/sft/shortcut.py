"""What a shortcut model learns beside flow matching: that a step is as far as its two halves (arXiv 2410.12557, Eq. 5).

Axes: B batch, H horizon, D action numbers.
"""

import numpy as np
import torch
from torch import Tensor

from pirl_core.flow import path
from pirl_core.policy.flow_policy import Noisy
from pirl_core.sft.batches import Samples
from pirl_core.training.learner import Learner

SHARE = 0.25
"""Of a batch, as in ReinFlow's shortcut models (arXiv 2505.22094); the rest is flow matching, at length 0."""
FINEST = 7
"""The shortest half of a step is 2 ** −FINEST."""


def with_steps(rng: np.random.Generator, samples: Samples) -> Samples:
    """The first ``SHARE`` of the samples get a length d = 2^−k, k < ``FINEST``, and a time that is a multiple of it."""
    count = int(SHARE * len(samples.rows))
    parts = 2 ** rng.integers(FINEST, size=count)
    tau, step = samples.tau.clone(), torch.zeros(len(samples.rows))
    tau[:count] = torch.from_numpy(rng.integers(parts) / parts).float()
    step[:count] = torch.from_numpy(1 / parts).float()
    return samples._replace(tau=tau, step=step)


@torch.no_grad()
def consistent(learner: Learner, point: Noisy, target: Tensor) -> Tensor:
    """``target`` (B, H, D) of flow matching, but what the model itself says of two halves where it is asked a step."""
    assert point.step is not None
    rows = point.step > 0
    if not rows.any():
        return target
    inputs = type(point.inputs)(*(part[rows] for part in point.inputs))

    def velocity(x: Tensor, tau: Tensor, step: Tensor) -> Tensor:
        found: Tensor = learner.module(inputs, x, tau, step)
        return found

    halves = path.shortcut_target(velocity, point.x[rows], point.tau[rows], point.step[rows])
    return target.index_put((rows,), halves)
