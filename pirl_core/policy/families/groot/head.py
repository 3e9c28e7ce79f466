"""GR00T N1.5's action head: a diffusion transformer (DiT) that reads the VLM through cross-attention.

Axes: B batch, P prefix tokens, T = 1 + F + H tokens of the DiT (state, future, action), S state numbers, D action
numbers, W width of the VLM, M width of the DiT, E width of its output.
Time: τ = 0 is noise, τ = 1 is the action, v = A − ε; the published network uses the same convention.
Source: the GR00T N1 paper (arXiv 2503.14734) and the N1.5 release's configuration. Attention never attends to padding,
which the release ignores: prompts of equal length give its result, others no longer depend on their batch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pirl_core.policy.layers import Run, plain

BUCKETS = 1000
TIME_WIDTH = 256
MAX_PERIOD = 10_000


def time_bucket(tau: Tensor) -> Tensor:
    """τ (B,) in [0, 1] → the bucket (B,), an integer as float32, that the network was trained on: ⌊1000 τ⌋.

    A τ = k/K that float32 has rounded down stays in its own bucket: 1000 τ is right to 6e-5, and on a grid of K ≤ 1000
    steps it is an integer or 1/K away from one.
    """
    return (tau.double() * BUCKETS + 1e-4).floor().float()


def sinusoid(bucket: Tensor, half: int, last: int) -> tuple[Tensor, Tensor]:
    """Sine and cosine (B, half) of geometric frequencies, index 0 at 1 and index ``last`` at 1 / MAX_PERIOD."""
    index = torch.arange(half, dtype=torch.float32, device=bucket.device)
    angle = bucket[:, None] * torch.exp(-math.log(MAX_PERIOD) * index / last)
    return angle.sin(), angle.cos()


class SlotLinear(nn.Module):
    """One linear map per embodiment; ``slot`` picks it. x (B, T, inner) → (B, T, outer)."""

    def __init__(self, slots: int, inner: int, outer: int) -> None:
        super().__init__()
        # About the release's 0.02 at its own width; a small network whose signal 0.02 starves would not learn a word.
        self.W = nn.Parameter(torch.randn(slots, inner, outer) / math.sqrt(inner))
        self.b = nn.Parameter(torch.zeros(slots, outer))

    def forward(self, x: Tensor, slot: int) -> Tensor:
        return x @ self.W[slot] + self.b[slot]


class SlotMLP(nn.Module):
    """Two maps with a ReLU between, of the embodiment ``slot``."""

    def __init__(self, slots: int, inner: int, hidden: int, outer: int) -> None:
        super().__init__()
        self.layer1 = SlotLinear(slots, inner, hidden)
        self.layer2 = SlotLinear(slots, hidden, outer)

    def forward(self, x: Tensor, slot: int) -> Tensor:
        hidden: Tensor = self.layer2(F.relu(self.layer1(x, slot)), slot)
        return hidden


class ActionEncoder(nn.Module):
    """Noisy actions (B, H, D) and their time bucket (B,) → tokens (B, H, M)."""

    def __init__(self, slots: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.W1 = SlotLinear(slots, action_dim, width)
        self.W2 = SlotLinear(slots, 2 * width, width)
        self.W3 = SlotLinear(slots, width, width)

    def forward(self, actions: Tensor, bucket: Tensor, slot: int) -> Tensor:
        x = self.W1(actions, slot)
        half = x.shape[-1] // 2
        time = torch.cat(sinusoid(bucket, half, half), -1).to(x.dtype)
        x = torch.cat([x, time[:, None].expand_as(x)], -1)
        tokens: Tensor = self.W3(F.silu(self.W2(x, slot)), slot)
        return tokens


class TimeEncoder(nn.Module):
    """Time bucket (B,) → the condition (B, M) of every adaptive norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(TIME_WIDTH, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, bucket: Tensor) -> Tensor:
        sine, cosine = sinusoid(bucket, TIME_WIDTH // 2, TIME_WIDTH // 2 - 1)
        wave = torch.cat([cosine, sine], -1).to(self.linear_1.weight.dtype)
        condition: Tensor = self.linear_2(F.silu(self.linear_1(wave)))
        return condition


class AdaLayerNorm(nn.Module):
    """LayerNorm whose scale and shift come from the time."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(time))[:, None].chunk(2, -1)
        out: Tensor = F.layer_norm(x, x.shape[-1:]) * (1 + scale) + shift
        return out


class Attention(nn.Module):
    """Multi-head attention of x (B, T, width) to source (B, P, source_width) where mask, broadcast to (B, heads, T, P),
    is true."""

    def __init__(self, width: int, source_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(source_width, width)
        self.to_v = nn.Linear(source_width, width)
        self.to_out = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.to_q(x), self.to_k(source), self.to_v(source))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        out: Tensor = self.to_out(mixed.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two layers around a GELU (tanh form), four times as wide inside."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(F.gelu(self.up(x), approximate="tanh"))
        out: Tensor = self.dropout(self.down(hidden))
        return out


class VLBlock(nn.Module):
    """Self-attention over the VLM's tokens (B, P, W), none of them causal."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn1 = Attention(width, width, heads)
        self.norm3 = nn.LayerNorm(width)
        self.ff = FeedForward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        h = self.norm1(x)
        # The release drops out twice here: after the output projection and again as "final dropout".
        x = x + self.dropout(self.dropout(self.attn1(h, h, mask)))
        out: Tensor = x + self.ff(self.norm3(x))
        return out


class DiTBlock(nn.Module):
    """Attention of the DiT's tokens (B, T, M) to the VLM (cross) or to themselves, conditioned on the time."""

    def __init__(self, width: int, source_width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(width)
        self.attn1 = Attention(width, source_width, heads)
        self.ff = FeedForward(width, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, time: Tensor, source: Tensor | None, mask: Tensor | None) -> Tensor:
        h = self.norm1(x, time)
        x = x + self.dropout(self.dropout(self.attn1(h, h if source is None else source, mask)))
        out: Tensor = x + self.ff(F.layer_norm(x, x.shape[-1:]))
        return out


class DiT(nn.Module):
    """Blocks 0, 2, … attend to the VLM, blocks 1, 3, … to the sequence itself. tokens (B, T, M) → (B, T, E)."""

    def __init__(self, width: int, source_width: int, heads: int, layers: int, outer: int, dropout: float) -> None:
        super().__init__()
        self.timestep_encoder = TimeEncoder(width)
        self.transformer_blocks = nn.ModuleList(
            DiTBlock(width, width if index % 2 else source_width, heads, dropout) for index in range(layers)
        )
        self.proj_out_1 = nn.Linear(width, 2 * width)
        self.proj_out_2 = nn.Linear(width, outer)

    def forward(self, x: Tensor, bucket: Tensor, memory: Tensor, mask: Tensor, run: Run) -> Tensor:
        time = self.timestep_encoder(bucket)
        for index, block in enumerate(self.transformer_blocks):
            x = run(block, x, time, None, None) if index % 2 else run(block, x, time, memory, mask)
        shift, scale = self.proj_out_1(F.silu(time))[:, None].chunk(2, -1)
        out: Tensor = self.proj_out_2(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        return out


class ActionHead(nn.Module):
    """All of GR00T after the VLM. ``remember`` runs once per observation, ``velocity`` once per denoising step.

    slots: embodiments with weights of their own. positions: rows of the position table, at least the horizon.
    """

    def __init__(
        self,
        *,
        vlm_width: int,
        vl_layers: int,
        vl_heads: int,
        dit_layers: int,
        dit_heads: int,
        dit_width: int,
        expert_width: int,
        state_dim: int,
        action_dim: int,
        slots: int,
        future_tokens: int,
        positions: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.vlln = nn.LayerNorm(vlm_width)
        self.vl_self_attention = nn.ModuleList(VLBlock(vlm_width, vl_heads, dropout) for _ in range(vl_layers))
        self.state_encoder = SlotMLP(slots, state_dim, expert_width, dit_width)
        self.action_encoder = ActionEncoder(slots, action_dim, dit_width)
        self.future_tokens = nn.Embedding(future_tokens, dit_width)
        self.position_embedding = nn.Embedding(positions, dit_width)
        for table in (self.future_tokens, self.position_embedding):
            nn.init.normal_(table.weight, std=0.02)
        self.model = DiT(dit_width, vlm_width, dit_heads, dit_layers, expert_width, dropout)
        self.action_decoder = SlotMLP(slots, expert_width, expert_width, action_dim)

    def remember(self, features: Tensor, valid: Tensor, run: Run = plain) -> Tensor:
        """The VLM's tokens (B, P, W) as the DiT reads them (B, P, W). valid: (B, P) bool."""
        x: Tensor = self.vlln(features)
        mask = valid[:, None, None, :]
        for block in self.vl_self_attention:
            x = run(block, x, mask)
        return x

    def velocity(
        self, memory: Tensor, valid: Tensor, state: Tensor, x: Tensor, tau: Tensor, slot: int, run: Run = plain
    ) -> tuple[Tensor, Tensor]:
        """v (B, H, D) at the noisy actions x (B, H, D) and times τ (B,), and the DiT's output (B, H, E) before the
        action decoder. memory: from ``remember``. state: (B, S). slot: the embodiment."""
        count, horizon = x.shape[:2]
        bucket = time_bucket(tau)
        actions = self.action_encoder(x, bucket, slot) + self.position_embedding.weight[:horizon]
        future = self.future_tokens.weight.expand(count, -1, -1)
        tokens = torch.cat([self.state_encoder(state[:, None], slot), future, actions], 1)
        memory = memory.to(tokens.dtype)
        features = self.model(tokens, bucket, memory, valid[:, None, None, :], run)[:, -horizon:]
        return self.action_decoder(features, slot), features
