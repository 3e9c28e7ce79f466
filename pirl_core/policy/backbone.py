"""The model families. Each is one class: ``encode`` an observation once, then ask for the ``velocity`` as needed.

A family's folder, here or in a package of one's own, has a module ``family``: ``Network``, an ``nn.Module`` made of a
shape, with the attributes and methods of ``families.pi0.network.Pi0``; ``Shape``, a NamedTuple of its sizes, those of
``DataSizes`` among them, that tells its ``family`` by the name that params.yaml gives; ``shape(size, data)``, which
makes one; ``published_sizes(cameras, horizon)``, what released weights expect of their data, and ``PROMPT``, how they
were told the task. It may have heads of its own, ``critic(shape)`` on pooled output and state, and ``noise_net(shape)``
on the features of ``velocity``. Where ``STEPPED`` is true its networks are ``stepped``: ``velocity`` takes the length
of a step as well. A module ``layout`` may know the names of published weights.
"""

from typing import TYPE_CHECKING, Any, Union

import torch
from torch import nn

from pirl_core import named
from pirl_core.flow.chain import Velocity
from pirl_core.params.sizes import Size
from pirl_core.policy.context import Context, DataSizes
from pirl_core.policy.heads import NoiseNet
from pirl_core.policy.tokenizer import Prompt

if TYPE_CHECKING:
    from pirl_core.policy.families.groot.network import Groot, GrootShape
    from pirl_core.policy.families.mlp.network import Mlp, MlpShape
    from pirl_core.policy.families.pi0.network import Pi0, Pi0Shape
    from pirl_core.policy.families.smolvla.network import SmolVla, SmolVlaShape

# In words, since an experiment loads its own family alone.
Backbone = Union["Pi0", "SmolVla", "Groot", "Mlp"]
"""Or anything that has what these have."""
Shape = Union["Pi0Shape", "SmolVlaShape", "GrootShape", "MlpShape"]


def family_module(family: str) -> Any:
    """Raises LookupError for none."""
    return named.part(named.FAMILIES, family, "family")


def new_shape(family: str, size: Size, data: DataSizes) -> Shape:
    shape: Shape = family_module(family).shape(size, data)
    return shape


def published_sizes(family: str, cameras: int, horizon: int) -> DataSizes:
    """What the released weights of a family expect of their data."""
    sizes: DataSizes = family_module(family).published_sizes(cameras, horizon)
    return sizes


def published_prompt(family: str) -> Prompt:
    """Of the published checkpoints."""
    prompt: Prompt = family_module(family).PROMPT
    return prompt


def new_backbone(shape: Shape) -> Backbone:
    """With random weights, from torch's own generator."""
    backbone: Backbone = family_module(shape.family).Network(shape)
    return backbone


def velocity_of(backbone: Backbone, context: Context, steps: int) -> Velocity:
    """The velocity of a chain of so many steps, whose length a shortcut model is told."""
    if not getattr(backbone, "stepped", False):
        return lambda x, tau: backbone.velocity(context, x, tau)
    return lambda x, tau: backbone.velocity(context, x, tau, torch.full_like(tau, 1 / steps))  # type: ignore[call-arg]


def own_head(shape: Shape, name: str) -> nn.Module | None:
    """``critic`` or ``noise_net`` of the family's own; None where it has none."""
    make = getattr(family_module(shape.family), name, None)
    return None if make is None else make(shape)


def new_noise_net(shape: Shape) -> nn.Module:
    """(features of ``velocity``) → (B, H, D)."""
    return own_head(shape, "noise_net") or NoiseNet(shape.expert_width, shape.action_dim)


def shape_class(family: str) -> type[Shape]:
    kind: type[Shape] = family_module(family).Shape
    return kind
