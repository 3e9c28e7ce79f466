"""Flow-CPS (π_RL App. I): noise is rotated, not added, so its scale is kept. std = 0 at the last step."""

import math

import torch
from torch import Tensor

from pirl_core.flow.noise import Weights


def weights(tau: Tensor, delta: float, level: float) -> Weights:
    # Rounding must not leave a std of 1e-8 at the last step: its density would be huge.
    rest = torch.where(1 - tau - delta < 1e-6, 0, 1 - tau - delta)
    angle = math.pi * level / 2
    return Weights(tau + delta, rest * math.cos(angle), rest * math.sin(angle))
