"""Gemma's arithmetic for π0 and π0.5: decoder layer over a cache, rotary embedding, adaptive norm, embedding of time.

Axes: B batch, T own tokens, P cached tokens, G key/value heads, E head width, W width.
Time: functions here take the network's own time t, of which ``pi0`` knows the meaning.

Nothing here keeps a buffer: ``.to(torch.bfloat16)`` would round the frequencies (the embedding of time is then off by
up to 1.9), and a model built on the meta device would keep them there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaDecoderLayer

MIN_PERIOD, MAX_PERIOD = 4e-3, 4.0
ROTARY_BASE = 10000.0


class AdaptiveNorm(nn.Module):
    """adaRMS: an RMS norm without weight whose scale, shift and gate are a linear function of a condition.

    Starts with all three at zero, so a fresh layer passes its input on unchanged (Peebles & Xie 2023, adaLN-Zero).
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.dense = nn.Linear(width, 3 * width)
        nn.init.zeros_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, W), condition (B, W) → the modulated norm (B, T, W) and the branch's gate (B, 1, W)."""
        scale, shift, gate = self.dense(condition).float()[:, None].chunk(3, -1)
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (normed * (1 + scale) + shift).type_as(x), gate.type_as(x)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sines, then cosines, of t (B,) at ``width``/2 periods from 0.004 to 4: (B, width) in float64.

    In float64 as in openpi: at a period of 0.004 the rounding of float32 is visible in the velocity.
    """
    fraction = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=t.device)
    angle = 2 * math.pi * t.double()[:, None] / (MIN_PERIOD * (MAX_PERIOD / MIN_PERIOD) ** fraction)
    return torch.cat([angle.sin(), angle.cos()], 1)


def rotary_embedding(positions: Tensor, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosine and sine (B, T, E) of the rotary position embedding at positions (B, T)."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float, device=positions.device) / head_dim
    angle = positions[..., None].float() * (1.0 / ROTARY_BASE**exponent)
    angle = torch.cat([angle, angle], -1)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotated(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, heads, T, E) turned by ``rotary_embedding``'s angles. Split, not sliced as in transformers: the gradient of
    a slice is a whole tensor, filled with zeros and added up."""
    cosine, sine = (part[:, None] for part in rotary)
    first, second = x.chunk(2, -1)
    return x * cosine + torch.cat([-second, first], -1) * sine


def decoder_layer(
    layer: GemmaDecoderLayer,
    x: Tensor,
    rotary: tuple[Tensor, Tensor],
    mask: Tensor,
    cached: Tensor | None = None,
    condition: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One Gemma layer on x (B, T, W), attending to ``cached`` (B, 2, G, P, E) and its own keys and values where
    ``mask`` lets it (``grouped_mask``).

    ``condition`` (B, W) goes to the layer's adaptive norms, if it has such. Returns the output and the layer's own keys
    and values (B, G, T, E).
    """
    attention = layer.self_attn
    h, gate = normalized(layer.input_layernorm, x, condition)
    query, key, value = (
        projection(h).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    # Under autocast the rotation is in float32; attention, and a cache of keys, are not.
    query, key = (rotated(part, rotary).to(value.dtype) for part in (query, key))
    all_keys, all_values = key, value
    if cached is not None:
        all_keys = torch.cat([cached[:, 0].to(key.dtype), key], 2)
        all_values = torch.cat([cached[:, 1].to(value.dtype), value], 2)
    mixed = grouped_attention(query, all_keys, all_values, mask, attention.scaling)
    x = _added(x, attention.o_proj(mixed.transpose(1, 2).flatten(2)), gate)
    h, gate = normalized(layer.post_attention_layernorm, x, condition)
    return _added(x, layer.mlp(h), gate), key, value


def normalized(norm: nn.Module, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """x through a plain or an adaptive norm, and the gate of the latter."""
    if condition is None:
        return norm(x), None
    output, gate = norm(x, condition)
    return output, gate


def _added(x: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    return x + branch if gate is None else x + branch * gate


def grouped_mask(allowed: Tensor, shared: int, dtype: torch.dtype, barred: float = -math.inf) -> Tensor:
    """What ``grouped_attention`` adds to its scores, from who may see whom (B, 1, 1 or T, P + T): made once for all
    layers. shared: heads to a key head. barred: what the score of a pair that must not attend gets. Returns
    (B, 1, 1 or shared·T, P + T)."""
    added = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill(~allowed, barred)
    return added if allowed.shape[2] == 1 else added.repeat(1, 1, shared, 1)


def grouped_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float) -> Tensor:
    """query (B, heads, T, E), key and value (B, G, P + T, E), mask as of ``grouped_mask`` → (B, heads, T, E).

    The heads that share keys are laid behind each other as more queries of one head. With ``enable_gqa``, CUDA would
    write out all scores: its flash kernel takes no mask, its memory-efficient one no unequal numbers of heads.
    """
    shared = query.shape[1] // key.shape[1]
    rows = query.unflatten(1, (-1, shared)).flatten(2, 3)
    mixed = F.scaled_dot_product_attention(rows, key, value, attn_mask=mask, scale=scale)
    apart: Tensor = mixed.unflatten(2, (shared, query.shape[2])).flatten(1, 2)
    return apart
