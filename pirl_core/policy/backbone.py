"""The model families. Each is one class: ``encode`` an observation once, then ask for the ``velocity`` as needed."""

from typing import Literal

from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.groot.network import Groot, GrootShape, groot_shape
from pirl_core.policy.families.pi0.network import Pi0, Pi0Shape, pi0_shape
from pirl_core.policy.families.smolvla.network import SmolVla, SmolVlaShape, smolvla_shape
from pirl_core.policy.sizes import Size

Family = Literal["pi0", "pi05", "smolvla", "groot"]
Backbone = Pi0 | SmolVla | Groot
Shape = Pi0Shape | SmolVlaShape | GrootShape


def new_shape(family: Family, size: Size, data: DataSizes) -> Shape:
    if family == "smolvla":
        return smolvla_shape(size, data)
    if family == "groot":
        return groot_shape(size, data)
    return pi0_shape(size, data, family == "pi05")


def published_sizes(family: Family, cameras: int, horizon: int) -> DataSizes:
    """What the released weights of a family expect of their data."""
    if family == "smolvla":
        return DataSizes(512, cameras, 49280, 48, 32, 32, horizon)
    if family == "groot":
        # 256 image tokens and some words a camera, and the chat around the instruction.
        return DataSizes(224, cameras, 151680, 256 + 264 * cameras, 64, 32, horizon)
    return DataSizes(224, cameras, 257152, 200 if family == "pi05" else 48, 32, 32, horizon)


def new_backbone(shape: Shape) -> Backbone:
    """With random weights, from torch's own generator."""
    if isinstance(shape, SmolVlaShape):
        return SmolVla(shape)
    if isinstance(shape, GrootShape):
        return Groot(shape)
    return Pi0(shape)


def family_of(shape: Shape) -> Family:
    if isinstance(shape, SmolVlaShape):
        return "smolvla"
    if isinstance(shape, GrootShape):
        return "groot"
    return "pi05" if shape.pi05 else "pi0"


def shape_class(family: Family) -> type[Shape]:
    if family == "smolvla":
        return SmolVlaShape
    return GrootShape if family == "groot" else Pi0Shape
