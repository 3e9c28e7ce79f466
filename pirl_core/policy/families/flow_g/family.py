"""What ``policy.backbone: flow_g`` stands for: see ``policy.backbone``."""

from torch import nn

from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.flow_g.velocity import GatedVelocity
from pirl_core.policy.families.mlp.family import critic, noise_net, published_sizes, sized
from pirl_core.policy.families.mlp.network import Mlp, MlpShape

__all__ = ["PROMPT", "Network", "Shape", "cell", "critic", "noise_net", "published_sizes", "shape"]

Network = Mlp
Shape = MlpShape
PROMPT = "words"
WIDTHS: dict[str, int] = {"nano": 32, "tiny": 64, "S": 128, "M": 256, "L": 512}
"""S is the paper's width, L that of the released code (arXiv 2509.25756)."""


def shape(size: Size, data: DataSizes) -> MlpShape:
    return sized("flow_g", WIDTHS, size, data)


def cell(shape: MlpShape) -> nn.Module:
    return GatedVelocity(shape)
