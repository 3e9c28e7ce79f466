"""An independent π0 and π0.5 in float64: prefix and suffix in one masked pass, as the networks are trained.

Axes: B batch, T tokens, E head width, W width.
Time: the network's, t = 1 is noise, until ``velocity`` turns it round.
"""

import math

import torch
import torch.nn.functional as F


def sinusoid(t, width):
    """The embedding of time in openpi's formula, in float64."""
    periods = torch.tensor([0.004 * 1000 ** (i / (width // 2 - 1)) for i in range(width // 2)], dtype=torch.float64)
    return torch.cat([f(2 * math.pi * t.double()[:, None] / periods) for f in (torch.sin, torch.cos)], 1)


def attention(query, key, value, allowed):
    """query (B, T, heads, E), key, value (B, T, groups, E), allowed (B, T, T) → (B, T, heads·E)."""
    heads, width = query.shape[2:]
    key, value = (part.repeat_interleave(heads // part.shape[2], 2) for part in (key, value))
    scores = torch.einsum("bthe,bshe->bhts", query, key) / width**0.5
    weights = scores.masked_fill(~allowed[:, None], -math.inf).softmax(-1)
    return torch.einsum("bhts,bshe->bthe", weights, value).flatten(2)


class Joint:
    def __init__(self, network):
        self.shape = network.shape
        self.weights = {name: value.double() for name, value in network.state_dict().items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0)

    def layer_norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def rms_norm(self, name, x, condition):
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        if condition is None:
            return normed * (1 + self.weights[f"{name}.weight"]), 1
        scale, shift, gate = self.linear(f"{name}.dense", condition)[:, None].chunk(3, -1)
        return normed * (1 + scale) + shift, gate

    def images(self, images):
        vision, size, patch = "pi0.model.vlm.vision_tower", self.shape.image_size // self.shape.patch, self.shape.patch
        count, cameras = images.shape[:2]
        cut = images.double().unflatten(-1, (size, patch)).unflatten(-3, (size, patch)).permute(0, 1, 3, 5, 2, 4, 6)
        kernel = self.weights[f"{vision}.embeddings.patch_embedding.weight"].flatten(1)
        x = cut.reshape(count * cameras, size * size, -1) @ kernel.T
        x = x + self.weights[f"{vision}.embeddings.patch_embedding.bias"]
        x = x + self.weights[f"{vision}.embeddings.position_embedding.weight"]
        everything = torch.ones(len(x), x.shape[1], x.shape[1], dtype=torch.bool)
        for i in range(self.shape.vision_layers):
            name = f"{vision}.encoder.layers.{i}"
            h = self.layer_norm(f"{name}.layer_norm1", x)
            query, key, value = (
                self.linear(f"{name}.self_attn.{p}_proj", h).unflatten(-1, (self.shape.vision_heads, -1)) for p in "qkv"
            )
            mixed = attention(query, key, value, everything)
            x = x + self.linear(f"{name}.self_attn.out_proj", mixed)
            h = F.gelu(self.linear(f"{name}.mlp.fc1", self.layer_norm(f"{name}.layer_norm2", x)), approximate="tanh")
            x = x + self.linear(f"{name}.mlp.fc2", h)
        x = self.linear("pi0.model.vlm.multi_modal_projector.linear", self.layer_norm(f"{vision}.post_layernorm", x))
        return x.reshape(count, cameras * size * size, -1)

    def suffix(self, state, x, t):
        embed = "pi0.embed_action_time"
        time = sinusoid(t, self.shape.expert_width)
        actions = self.linear(f"{embed}.action_in_proj", x.double())
        if self.shape.pi05:
            hidden = F.silu(self.linear(f"{embed}.time_mlp_in", time))
            return actions, F.silu(self.linear(f"{embed}.time_mlp_out", hidden))
        both = torch.cat([actions, time[:, None].expand_as(actions)], -1)
        actions = self.linear(f"{embed}.action_time_mlp_out", F.silu(self.linear(f"{embed}.action_time_mlp_in", both)))
        return torch.cat([self.linear(f"{embed}.state_proj", state.double())[:, None], actions], 1), None

    def rotate(self, x, positions):
        half = x.shape[-1] // 2
        angle = positions[..., None, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        first, second = x[..., :half], x[..., half:]
        return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)

    def velocity(self, inputs, x, tau):
        text = self.weights["pi0.model.vlm.language_model.embed_tokens.weight"][inputs.tokens]
        prefix = torch.cat([self.images(inputs.images), text * self.shape.vlm_width**0.5], 1)
        suffix, condition = self.suffix(inputs.state, x, 1 - tau.double())
        count, length = prefix.shape[:2]
        seen = torch.ones(count, length + suffix.shape[1], dtype=torch.bool)
        seen[:, length - self.shape.text_length : length] = inputs.tokens_valid
        # Blocks: prefix 0, the state 1, the actions 2. A token sees its own block and those before.
        block = torch.zeros(seen.shape[1])
        block[length:] = 1
        block[-self.shape.horizon :] = 2
        allowed = (block[:, None] >= block[None]) & seen[:, None]
        positions = (seen.cumsum(1) - 1).double()
        streams = {"pi0.model.vlm.language_model": (prefix, None), "pi0.model.dit": (suffix, condition)}
        for i in range(self.shape.vlm_layers):
            parts, gates = [], []
            for name, (h, c) in streams.items():
                normed, gate = self.rms_norm(f"{name}.layers.{i}.input_layernorm", h, c)
                gates.append(gate)
                parts.append([self.linear(f"{name}.layers.{i}.self_attn.{p}_proj", normed) for p in "qkv"])
            query, key, value = (
                torch.cat([part[k] for part in parts], 1).unflatten(-1, (-1, self.shape.head_dim)) for k in range(3)
            )
            mixed = attention(self.rotate(query, positions), self.rotate(key, positions), value, allowed)
            for (name, (h, c)), gate, own in zip(
                streams.items(), gates, (mixed[:, :length], mixed[:, length:]), strict=True
            ):
                layer = f"{name}.layers.{i}"
                h = h + self.linear(f"{layer}.self_attn.o_proj", own) * gate
                normed, gate = self.rms_norm(f"{layer}.post_attention_layernorm", h, c)
                opened = F.gelu(self.linear(f"{layer}.mlp.gate_proj", normed), approximate="tanh")
                raised = opened * self.linear(f"{layer}.mlp.up_proj", normed)
                streams[name] = (h + self.linear(f"{layer}.mlp.down_proj", raised) * gate, c)
        out, _ = self.rms_norm("pi0.model.dit.norm", *streams["pi0.model.dit"])
        pooled, _ = self.rms_norm("pi0.model.vlm.language_model.norm", *streams["pi0.model.vlm.language_model"])
        valid = seen[:, :length, None]
        features = out[:, -self.shape.horizon :]
        return (
            -self.linear("pi0.action_out_proj", features),
            features,
            (pooled * valid).sum(1) / valid.sum(1),
        )
