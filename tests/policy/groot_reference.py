"""A reference of GR00T N1.5 from its architecture, for the tests: it reads weights by name and shares no code of ours.

Attention is written out as a softmax of scaled products per head, norms as means and variances, rotary embedding as a
rotation of two halves. Axes as in the network: B batch, C cameras, N patches, T and P tokens, W, M and E widths.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pirl_core.policy.families.groot.network import GrootShape


def normalise(x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, kv_heads: int, allowed: Tensor | None) -> Tensor:
    """(B, T, heads·e) by (B, P, kv_heads·e) → (B, T, heads·e); allowed: broadcasts to (B, T, P)."""
    size = query.shape[-1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        shared = head // (heads // kv_heads)
        read = slice(shared * size, (shared + 1) * size)
        scores = query[..., own] @ key[..., read].mT / math.sqrt(size)
        if allowed is not None:
            scores = scores.masked_fill(~allowed, -1e30)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        parts.append(weights / weights.sum(-1, keepdim=True) @ value[..., read])
    return torch.cat(parts, -1)


class Weights:
    """Tensors under a prefix of the state dict; ``w("name", x)`` applies the linear map of that name."""

    def __init__(self, state: dict[str, Tensor], prefix: str = "") -> None:
        self.state, self.prefix = state, prefix

    def at(self, name: str) -> "Weights":
        return Weights(self.state, f"{self.prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor:
        return self.state[self.prefix + name]

    def __call__(self, name: str, x: Tensor) -> Tensor:
        y = x @ self[f"{name}.weight"].mT
        return y + self[f"{name}.bias"] if f"{self.prefix}{name}.bias" in self.state else y

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return normalise(x, eps) * self[f"{name}.weight"] + self[f"{name}.bias"]

    def rms(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * self[f"{name}.weight"]


def tanh_gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def reference_image_features(w: Weights, shape: GrootShape, images: Tensor) -> Tensor:
    """SigLIP with a plain patch embedding, then Eagle's linear map: (B, C, 3, s, s) → (B, C·N, W)."""
    flat, patch = images.flatten(0, 1), shape.patch
    tower = w.at("vision_model")
    kernel = tower["embeddings.patch_embedding.weight"].flatten(1)
    columns = F.unfold(flat, patch, stride=patch).mT
    x = columns @ kernel.mT + tower["embeddings.patch_embedding.bias"] + tower["embeddings.position_embedding.weight"]
    for index in range(shape.vision_layers):
        layer = tower.at(f"encoder.layers.{index}")
        h, a = layer.norm("layer_norm1", x, 1e-6), layer.at("self_attn")
        heads = shape.vision_heads
        x = x + a("out_proj", attend(a("q_proj", h), a("k_proj", h), a("v_proj", h), heads, heads, None))
        x = x + layer("mlp.fc2", tanh_gelu(layer("mlp.fc1", layer.norm("layer_norm2", x, 1e-6))))
    return w("mlp1", tower.norm("post_layernorm", x, 1e-6)).reshape(len(images), -1, shape.vlm_width)


def rotate(x: Tensor, positions: Tensor, size: int) -> Tensor:
    """Rotary embedding with base 10⁶ of each head of x (B, T, heads·size)."""
    angle = positions[..., None, None] * 1e6 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    first, second = x.unflatten(-1, (-1, size)).chunk(2, -1)
    cosine, sine = angle.cos(), angle.sin()
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1).flatten(-2)


def reference_language(w: Weights, shape: GrootShape, x: Tensor, valid: Tensor) -> Tensor:
    """Qwen3, causal: embeddings (B, P, W) → normed last hidden state (B, P, W)."""
    positions = valid.long().cumsum(1) - 1
    causal = torch.ones(x.shape[1], x.shape[1]).tril().bool()
    allowed = causal & valid[:, None, :]
    model, size = w.at("language_model"), shape.vlm_head_dim
    for index in range(shape.vlm_layers):
        layer = model.at(f"layers.{index}")
        h, a = layer.rms("input_layernorm", x), layer.at("self_attn")
        query, key = (
            rotate(a.rms(f"{name}_norm", a(f"{name}_proj", h).unflatten(-1, (-1, size))).flatten(-2), positions, size)
            for name in "qk"
        )
        mixed = attend(query, key, a("v_proj", h), shape.vlm_heads, shape.vlm_kv_heads, allowed)
        x = x + a("o_proj", mixed)
        h = layer.rms("post_attention_layernorm", x)
        x = x + layer("mlp.down_proj", swish(layer("mlp.gate_proj", h)) * layer("mlp.up_proj", h))
    return model.rms("norm", x)


def reference_memory(w: Weights, shape: GrootShape, features: Tensor, valid: Tensor | None) -> Tensor:
    """The head's LayerNorm and self-attention over the VLM's features; valid None: nothing is masked."""
    head = w.at("action_head")
    x = head.norm("vlln", features, 1e-5)
    for index in range(shape.vl_layers):
        x = reference_block(head.at(f"vl_self_attention.{index}"), x, x, None, shape.vl_heads, valid)
    return x


def reference_block(
    w: Weights, x: Tensor, source: Tensor, condition: Tensor | None, heads: int, valid: Tensor | None
) -> Tensor:
    """One block; ``source`` is x itself for self-attention. With a condition the norms adapt, else they are learned."""
    if condition is None:
        h = w.norm("norm1", x, 1e-5)
    else:
        scale, shift = w("norm1.linear", swish(condition))[:, None].chunk(2, -1)
        h = normalise(x, 1e-5) * (1 + scale) + shift
    read, a = (h if source is x else source), w.at("attn1")
    allowed = None if valid is None else valid[:, None, :]
    x = x + a("to_out", attend(a("to_q", h), a("to_k", read), a("to_v", read), heads, heads, allowed))
    h = normalise(x, 1e-5) if condition is not None else w.norm("norm3", x, 1e-5)
    return x + w("ff.down", tanh_gelu(w("ff.up", h)))


def wave(bucket: Tensor, half: int, last: int) -> Tensor:
    """Angles in float32, as the release computes them: at bucket 1000 their rounding shows."""
    return bucket[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / last)


def reference_velocity(
    w: Weights, shape: GrootShape, memory: Tensor, valid: Tensor | None, state: Tensor, x: Tensor, tau: Tensor
) -> tuple[Tensor, Tensor]:
    head, slot = w.at("action_head"), shape.embodiment

    def own(name: str, y: Tensor) -> Tensor:
        return y @ head[f"{name}.W"][slot] + head[f"{name}.b"][slot]

    bucket = torch.tensor([float(int(t * 1000)) for t in tau.tolist()])
    half = shape.dit_heads * shape.dit_head_dim // 2
    angle = wave(bucket, half, half).double()
    time = torch.cat([angle.sin(), angle.cos()], -1)[:, None].expand(-1, x.shape[1], -1)
    actions = own("action_encoder.W1", x)
    actions = own("action_encoder.W3", swish(own("action_encoder.W2", torch.cat([actions, time], -1))))
    actions = actions + head["position_embedding.weight"][: x.shape[1]]
    first = own("state_encoder.layer2", own("state_encoder.layer1", state[:, None]).clamp(min=0))
    tokens = torch.cat([first, head["future_tokens.weight"].expand(len(x), -1, -1), actions], 1)

    dit = head.at("model")
    angle = wave(bucket, 128, 127).double()
    encoder = dit.at("timestep_encoder")
    condition = encoder("linear_2", swish(encoder("linear_1", torch.cat([angle.cos(), angle.sin()], -1))))
    for index in range(shape.dit_layers):
        cross = index % 2 == 0
        block = dit.at(f"transformer_blocks.{index}")
        source = memory if cross else tokens
        tokens = reference_block(block, tokens, source, condition, shape.dit_heads, valid if cross else None)
    shift, scale = dit("proj_out_1", swish(condition))[:, None].chunk(2, -1)
    features = dit("proj_out_2", normalise(tokens, 1e-6) * (1 + scale) + shift)[:, -x.shape[1] :]
    return own("action_decoder.layer2", own("action_decoder.layer1", features).clamp(min=0)), features
