"""What ``policy.backbone: groot`` stands for: see ``policy.backbone``."""

from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.groot.network import Groot, GrootShape, groot_shape

Network = Groot
Shape = GrootShape
PROMPT = "groot"


def shape(size: Size, data: DataSizes) -> GrootShape:
    return groot_shape(size, data)


def published_sizes(cameras: int, horizon: int) -> DataSizes:
    # 256 image tokens and some words a camera, and the chat around the instruction.
    return DataSizes(224, cameras, 151680, 256 + 264 * cameras, 64, 32, horizon)
