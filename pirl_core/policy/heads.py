"""Heads on the flow policy: critic and noise net.

Axes: B batch, H horizon, D action numbers, W feature width.
"""

from itertools import pairwise

from torch import Tensor, nn

CRITIC_HIDDEN = (512, 256, 128)
NOISE_HIDDEN = (128, 64)


def critic_head(width: int, layers: int) -> nn.Sequential:
    """V(o) (Sec. 4.3.2): a 4-layer MLP, or the 1-layer ablation. (B, width) → (B, 1)."""
    sizes = [width, *(CRITIC_HIDDEN if layers == 4 else ())]
    hidden: list[nn.Module] = []
    for inner, outer in pairwise(sizes):
        hidden += [nn.Linear(inner, outer), nn.ReLU()]
    last = nn.Linear(sizes[-1], 1)
    # A near-zero first estimate keeps the first advantages those of the rewards.
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*hidden, last)


class NoiseNet(nn.Module):
    """Flow-Noise's learned noise (Eq. 4): tanh MLP on the expert's features, one raw log-variance an element."""

    def __init__(self, width: int, action_dim: int) -> None:
        super().__init__()
        first, second = NOISE_HIDDEN
        self.layers = nn.Sequential(
            nn.Linear(width, first), nn.Tanh(), nn.Linear(first, second), nn.Tanh(), nn.Linear(second, action_dim)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, H, W) → (B, H, D), to be bounded by ``flow.noise.bounded_std``."""
        raw: Tensor = self.layers(features)
        return raw
