"""Flow-T: SAC Flow's decoded velocity (arXiv 2509.25756, Sec. 4.1): the noisy chunk attends to the state.

Pre-norm decoder layers as torch has them, v = W_o LN(Φ). The token of a denoising step sees no other step's, so
self-attention is that of one token, and the chain stays Markov.

Axes: B batch, S state numbers, H horizon, D action numbers, E width of the time's embedding, W width.
"""

import torch
from torch import Tensor, nn

from pirl_core.policy.families.mlp.network import TIME, MlpShape

HEADS, LAYERS = 4, 2


class DecodedVelocity(nn.Module):
    def __init__(self, shape: MlpShape) -> None:
        super().__init__()
        chunk, width = shape.horizon * shape.action_dim, shape.width
        self.chunk = nn.Linear(chunk + TIME, width)
        self.state = nn.Sequential(nn.Linear(shape.state_dim, width // 2), nn.SiLU(), nn.Linear(width // 2, width))
        self.state_norm = nn.LayerNorm(width)
        layer = nn.TransformerDecoderLayer(
            width, HEADS, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, LAYERS, nn.LayerNorm(width))
        self.out = nn.Linear(width, chunk)

    def forward(self, state: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """state: (B, S); x: (B, H, D); time: (B, E), embedded → velocity (B, H, D)."""
        token = self.chunk(torch.cat([x.flatten(1), time], -1))[:, None]
        features = self.decoder(token, self.state_norm(self.state(state))[:, None])[:, 0]
        velocity: Tensor = self.out(features)
        return velocity.view_as(x)
