"""Flow-G: SAC Flow's gated velocity (arXiv 2509.25756, Sec. 4.1), a gated recurrent cell over the denoising steps.

    g = sigmoid(z([s; A; t])),  v = g · (v̂([s; A; t]) − A)

so a step of δ keeps 1 − g δ of A and takes g δ of the candidate v̂: gradients neither grow nor vanish over the chain.

Axes: B batch, S state numbers, H horizon, D action numbers, E width of the time's embedding, W width.
"""

import torch
from torch import Tensor, nn

from pirl_core.policy.families.mlp.network import TIME, MlpShape

OPEN = 5.0
"""The gate's first bias: sigmoid(5) = 0.993, with weights of 0."""


class GatedVelocity(nn.Module):
    def __init__(self, shape: MlpShape) -> None:
        super().__init__()
        chunk, width = shape.horizon * shape.action_dim, shape.width
        inner = shape.state_dim + chunk + TIME
        self.candidate = nn.Sequential(nn.Linear(inner, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.candidate_out = nn.Linear(width, chunk)
        self.gate = nn.Sequential(nn.Linear(inner, width), nn.SiLU())
        self.gate_out = nn.Linear(width, chunk)
        nn.init.zeros_(self.gate_out.weight)
        nn.init.constant_(self.gate_out.bias, OPEN)

    def forward(self, state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """state: (B, S); x: (B, H, D); time: (B, E), embedded → velocity (B, H, D)."""
        flat = x.flatten(1)
        joined = torch.cat([state, flat, time], -1)
        gate = torch.sigmoid(self.gate_out(self.gate(joined)))
        velocity: Tensor = gate * (self.candidate_out(self.candidate(joined)) - flat)
        return velocity.view_as(x)
