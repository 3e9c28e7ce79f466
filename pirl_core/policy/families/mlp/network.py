"""A backbone without pictures and words: ReinFlow's residual MLP of chunk, time and state (arXiv 2505.22094, Sec. 5),
or the cell of another family in its place.

Axes: B batch, H horizon, D action numbers, S state numbers, W width, E width of the time's embedding.
Time: τ = 0 is noise, τ = 1 is the action; it goes into the sinusoids as it is, unscaled, as in the released code.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pirl_core import named
from pirl_core.policy.context import Context, Inputs
from pirl_core.policy.images import Resize
from pirl_core.policy.layers import Run, plain

TIME = 16
NOISE_HIDDEN = 64
BASE = 10000.0


class MlpShape(NamedTuple):
    """Sizes. width: of the cell; the rest as in ``context.DataSizes``, of which no picture and no word is read.
    stem: that of no published layout. kind: the family whose cell it is."""

    image_size: int
    cameras: int
    vocabulary: int
    text_length: int
    state_dim: int
    action_dim: int
    horizon: int
    width: int
    stem: str = "conv"
    kind: str = "mlp"

    @property
    def family(self) -> str:
        return self.kind

    @property
    def expert_width(self) -> int:
        """Numbers of ``velocity``'s features."""
        return TIME + self.state_dim

    @property
    def vlm_width(self) -> int:
        return 0


class ResidualMlp(nn.Module):
    """Linear, one residual block with the activation before each of its layers, linear: (…, inputs) → (…, outputs)."""

    def __init__(self, inputs: int, width: int, outputs: int, activation: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.block = nn.Sequential(activation, nn.Linear(width, width), activation, nn.Linear(width, width))
        self.last = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        out: Tensor = self.last(hidden + self.block(hidden))
        return out


class ResidualVelocity(nn.Module):
    """ReinFlow's cell."""

    def __init__(self, shape: MlpShape) -> None:
        super().__init__()
        chunk = shape.horizon * shape.action_dim
        self.net = ResidualMlp(chunk + TIME + shape.state_dim, shape.width, chunk, nn.ReLU())

    def forward(self, state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """state: (B, S); x: (B, H, D); time: (B, E) → velocity (B, H, D)."""
        velocity: Tensor = self.net(torch.cat([x.flatten(1), time, state], -1))
        return velocity.view_as(x)


class Mlp(nn.Module):
    """The backbone around its family's cell. What there is to encode is the state itself."""

    resize: Resize = "openpi"

    def __init__(self, shape: MlpShape) -> None:
        super().__init__()
        self.shape = shape
        self.run_layer: Run = plain
        family = named.part(named.FAMILIES, shape.family, "family")
        # As in the released code, which embeds time and length together.
        self.stepped: bool = getattr(family, "STEPPED", False)
        told, hidden = (2 * TIME, TIME) if self.stepped else (TIME, 2 * TIME)
        self.time = nn.Sequential(nn.Linear(told, hidden), nn.Mish(), nn.Linear(hidden, TIME))
        self.cell: nn.Module = family.cell(shape)

    @property
    def vlm_modules(self) -> list[nn.Module]:
        return []

    @property
    def context_width(self) -> int:
        return self.shape.state_dim

    def freeze_vlm(self) -> None:
        """It has none."""

    def encode(self, inputs: Inputs) -> Context:
        nothing = inputs.state[:, :0]
        return Context(nothing, nothing.bool(), nothing, inputs.state)

    def velocity(self, context: Context, x: Tensor, tau: Tensor, step: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x: (B, H, D), tau: (B,) → velocity (B, H, D); features (B, 1, E + S), time and state, through which the noise
        net does not train the time's embedding. step: (B,), for a family that is told it; None: 0, no step at all."""
        seen = sinusoids(tau)
        if self.stepped:
            seen = torch.cat([seen, sinusoids(torch.zeros_like(tau) if step is None else step)], -1)
        time = self.time(seen.to(x.dtype))
        velocity: Tensor = self.run_layer(self.cell, context.state, x, time)
        return velocity, torch.cat([time.detach(), context.state], -1)[:, None]


class NoiseMlp(nn.Module):
    """ReinFlow's noise net σ(τ, o): tanh MLP on time and state, one raw log-variance for each number of the chunk."""

    def __init__(self, shape: MlpShape) -> None:
        super().__init__()
        self.chunk = (shape.horizon, shape.action_dim)
        sizes = (shape.expert_width, NOISE_HIDDEN, NOISE_HIDDEN, math.prod(self.chunk))
        first, second, third = (nn.Linear(inner, outer) for inner, outer in pairwise(sizes))
        self.layers = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), third)

    def forward(self, features: Tensor) -> Tensor:
        """(B, 1, E + S) → (B, H, D), to be bounded by ``flow.noise.bounded_std``."""
        raw: Tensor = self.layers(features[:, 0])
        return raw.view(-1, *self.chunk)


def sinusoids(tau: Tensor) -> Tensor:
    """(B,) → (B, E): sines, then cosines, at rates from 1 down to 1 / ``BASE``."""
    half = TIME // 2
    rates = torch.exp(torch.arange(half, device=tau.device) * (-math.log(BASE) / (half - 1)))
    angle = tau.float()[:, None] * rates
    return torch.cat([angle.sin(), angle.cos()], -1)
