"""What ``policy.backbone: shortcut`` stands for: see ``policy.backbone``. SFT teaches it the average velocity of a step
of any length (``sft.shortcut``), so that it may take one step or several with the same weights (arXiv 2410.12557)."""

from torch import nn

from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.mlp.family import WIDTHS, critic, noise_net, published_sizes, sized
from pirl_core.policy.families.mlp.network import Mlp, MlpShape, ResidualVelocity

__all__ = ["PROMPT", "STEPPED", "Network", "Shape", "cell", "critic", "noise_net", "published_sizes", "shape"]

Network = Mlp
Shape = MlpShape
PROMPT = "words"
STEPPED = True
"""Its velocity is that of a step whose length it is told."""


def shape(size: Size, data: DataSizes) -> MlpShape:
    return sized("shortcut", WIDTHS, size, data)


def cell(shape: MlpShape) -> nn.Module:
    return ResidualVelocity(shape)
