"""What ``policy.backbone: flow_t`` stands for: see ``policy.backbone``."""

from torch import nn

from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.flow_t.velocity import DecodedVelocity
from pirl_core.policy.families.mlp.family import critic, noise_net, published_sizes, sized
from pirl_core.policy.families.mlp.network import Mlp, MlpShape

__all__ = ["PROMPT", "Network", "Shape", "cell", "critic", "noise_net", "published_sizes", "shape"]

Network = Mlp
Shape = MlpShape
PROMPT = "words"
WIDTHS: dict[str, int] = {"nano": 32, "tiny": 64, "S": 96, "M": 128, "L": 256}
"""tiny is the paper's width from scratch, S the released code's, M the paper's offline-to-online (arXiv 2509.25756)."""


def shape(size: Size, data: DataSizes) -> MlpShape:
    return sized("flow_t", WIDTHS, size, data)


def cell(shape: MlpShape) -> nn.Module:
    return DecodedVelocity(shape)
