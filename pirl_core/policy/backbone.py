"""The model families. Each is one class: ``encode`` an observation once, then ask for the ``velocity`` as needed."""

from typing import Literal

from pirl_core.policy.context import DataSizes
from pirl_core.policy.pi0 import Pi0, Pi0Shape, pi0_shape
from pirl_core.policy.sizes import Size

Backbone = Pi0
Shape = Pi0Shape
Family = Literal["pi0", "pi05"]


def new_shape(family: Family, size: Size, data: DataSizes) -> Shape:
    return pi0_shape(size, data, family == "pi05")


def new_backbone(shape: Shape) -> Backbone:
    """With random weights, from torch's own generator."""
    return Pi0(shape)


def family_of(shape: Shape) -> Family:
    return "pi05" if shape.pi05 else "pi0"


def shape_class(family: Family) -> type[Shape]:
    return Pi0Shape
