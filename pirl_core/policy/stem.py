"""Eyes for a VLA that is trained from scratch: without them a small model does not learn which object a word means.

Axes: B batch, s image size in pixels, W widths.
"""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class ConvStem(nn.Module):
    """Four stride-2 convolutions in place of one 16-pixel patch projection, each modulated by the text (FiLM).

    images (B, 3, s, s), text (B, W) → (B, (s/16)², width).
    """

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        channels = [3, max(16, width // 4), max(16, width // 2), width, width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inner, outer, 3, stride=2, padding=1) for inner, outer in pairwise(channels)
        )
        modulations = [nn.Linear(text_width, 2 * outer) for outer in channels[1:]]
        for modulation in modulations:
            # Start as the identity, so that the stem first learns to see.
            nn.init.zeros_(modulation.weight)
            nn.init.zeros_(modulation.bias)
        self.modulations = nn.ModuleList(modulations)

    def forward(self, images: Tensor, text: Tensor) -> Tensor:
        x = images
        for convolution, modulation in zip(self.convolutions, self.modulations, strict=True):
            scale, shift = modulation(text)[:, :, None, None].chunk(2, 1)
            x = F.gelu(convolution(x) * (1 + scale) + shift, approximate="tanh")
        return x.flatten(2).transpose(1, 2)
