"""What ``policy.backbone: smolvla`` stands for: see ``policy.backbone``."""

from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.smolvla.network import SmolVla, SmolVlaShape, smolvla_shape

Network = SmolVla
Shape = SmolVlaShape
PROMPT = "smolvla"


def shape(size: Size, data: DataSizes) -> SmolVlaShape:
    return smolvla_shape(size, data)


def published_sizes(cameras: int, horizon: int) -> DataSizes:
    return DataSizes(512, cameras, 49280, 48, 32, 32, horizon)
