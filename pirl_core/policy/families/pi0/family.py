"""What ``policy.backbone: pi0`` stands for: see ``policy.backbone``."""

from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.pi0.network import Pi0, Pi0Shape, pi0_shape

Network = Pi0
Shape = Pi0Shape
PROMPT = "pi0"


def shape(size: Size, data: DataSizes) -> Pi0Shape:
    return pi0_shape(size, data, pi05=False)


def published_sizes(cameras: int, horizon: int) -> DataSizes:
    return DataSizes(224, cameras, 257152, 48, 32, 32, horizon)
