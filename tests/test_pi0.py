"""π0 and π0.5: parity with transformers and with a joint pass in float64, precision, checkpointing, full size."""

import math

import pytest
import torch
import torch.nn.functional as F
from transformers import PI0ForConditionalGeneration
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings

from pirl_core.policy.context import DataSizes, Inputs
from pirl_core.policy.flow_policy import FlowPolicy, Statistics
from pirl_core.policy.pi0 import Pi0, Pi0Shape, pi0_config, pi0_shape
from pirl_core.policy.tokenizer import build_tokenizer

TINY = Pi0Shape(
    image_size=24, cameras=2, vocabulary=40, text_length=6, state_dim=4, action_dim=3, horizon=5, vlm_width=32,
    vlm_layers=3, vlm_mlp=56, vision_width=24, vision_layers=2, vision_heads=3, vision_mlp=40, patch=8, expert_width=20,
    expert_mlp=44, heads=4, kv_heads=1, head_dim=8, pi05=False, stem="patch",
)  # fmt: skip
PATCHES = 9
FULL = DataSizes(224, 3, 257152, 48, 32, 32, 50)


def backbone(seed=0, **changes):
    """A random network whose every parameter is far from its initial value."""
    torch.manual_seed(seed)
    network = Pi0(TINY._replace(**changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return network.eval()


def example(count=3, seed=0):
    """Inputs of ragged prompts, noisy actions and times."""
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(TINY.text_length) < torch.tensor([6, 2, 4, 3])[:count, None]
    inputs = Inputs(
        torch.rand(count, TINY.cameras, 3, TINY.image_size, TINY.image_size, generator=generator) * 2 - 1,
        torch.randint(3, TINY.vocabulary, valid.shape, generator=generator) * valid,
        valid,
        torch.randn(count, TINY.state_dim, generator=generator),
    )
    x = torch.randn(count, TINY.horizon, TINY.action_dim, generator=generator)
    return inputs, x, torch.tensor([0.0, 0.4, 0.93, 0.7])[:count]


def sinusoid(t, width):
    """The embedding of time in openpi's formula, in float64."""
    periods = torch.tensor([0.004 * 1000 ** (i / (width // 2 - 1)) for i in range(width // 2)], dtype=torch.float64)
    return torch.cat([f(2 * math.pi * t.double()[:, None] / periods) for f in (torch.sin, torch.cos)], 1)


def transformers_model(network, monkeypatch=None):
    """transformers' own PI0 with the network's weights; with a monkeypatch, its time embedding in float64."""
    if monkeypatch:
        embed = lambda self, t: sinusoid(t, TINY.expert_width)  # noqa: E731
        monkeypatch.setattr(PI0TimestepEmbeddings, "forward", embed)
    model = PI0ForConditionalGeneration(pi0_config(network.shape)).eval()
    weights = {key.removeprefix("pi0."): value for key, value in network.state_dict().items()}
    result = model.load_state_dict(weights, strict=False)
    assert result.unexpected_keys == [] and result.missing_keys == ["model.dit.embed_tokens.weight"]
    return model


def transformers_inputs(inputs, slots):
    """``slots``: two: the cameras that exist; dropped, masked: a third is absent, without or with its tokens."""
    count, images = len(inputs.state), inputs.images
    seen = torch.ones(count, 2, dtype=torch.bool)
    image_tokens = torch.ones(count, 2 * PATCHES, dtype=torch.bool)
    if slots != "two":
        images = torch.cat([images, torch.zeros_like(images[:, :1])], 1)
        seen = F.pad(seen, (0, 1))
    if slots == "masked":
        image_tokens = F.pad(image_tokens, (0, PATCHES))
    ids = torch.full(image_tokens.shape, TINY.vocabulary)
    return {
        "state": inputs.state,
        "input_ids": torch.cat([ids, inputs.tokens], 1),
        "attention_mask": torch.cat([image_tokens, inputs.tokens_valid], 1).long(),
        "pixel_values": images,
        "pixel_attention_mask": seen,
    }


@pytest.mark.parametrize("slots", ["two", "dropped", "masked"])
@pytest.mark.parametrize("kv_heads", [1, 2])
@torch.no_grad()
def test_velocity_is_transformers(slots, kv_heads, monkeypatch):
    network = backbone(kv_heads=kv_heads)
    inputs, x, tau = example()
    ours, _ = network.velocity(network.encode(inputs), x, tau)
    given = transformers_inputs(inputs, slots)
    theirs = transformers_model(network)(noise=x, timestep=1 - tau, **given).logits
    assert theirs.abs().max() > 0.3
    torch.testing.assert_close(ours, -theirs, atol=1e-4, rtol=0)
    theirs = transformers_model(network, monkeypatch)(noise=x, timestep=1 - tau.double(), **given).logits
    torch.testing.assert_close(ours, -theirs, atol=1e-5, rtol=0)


def test_sampling_is_transformers(monkeypatch):
    """Four steps of the policy's own chain against ``sample_actions``, from the same noise."""
    network = backbone()
    inputs, x, _ = example()
    statistics = Statistics([0.0] * 4, [1.0] * 4, [0.0] * 3, [1.0] * 3)
    policy = FlowPolicy(network, build_tokenizer(["a"]), statistics, TINY.horizon, 4)
    with torch.no_grad():
        ours = policy.act(network.encode(inputs), x)
    given = transformers_inputs(inputs, "two")
    theirs = transformers_model(network, monkeypatch).sample_actions(noise=x, num_steps=4, **given)
    assert (theirs - x).abs().max() > 0.3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


class Joint:
    """Independent reference in float64: prefix and suffix in one masked pass, as the networks are trained."""

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

    @staticmethod
    def attention(query, key, value, allowed):
        """query (B, T, heads, E), key, value (B, T, groups, E), allowed (B, T, T) → (B, T, heads·E)."""
        heads, width = query.shape[2:]
        key, value = (part.repeat_interleave(heads // part.shape[2], 2) for part in (key, value))
        scores = torch.einsum("bthe,bshe->bhts", query, key) / width**0.5
        weights = scores.masked_fill(~allowed[:, None], -math.inf).softmax(-1)
        return torch.einsum("bhts,bshe->bthe", weights, value).flatten(2)

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
            parts = [self.linear(f"{name}.self_attn.{p}_proj", h) for p in "qkv"]
            mixed = self.attention(*(p.unflatten(-1, (self.shape.vision_heads, -1)) for p in parts), everything)
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
        actions = self.linear(
            f"{embed}.action_time_mlp_out", F.silu(self.linear(f"{embed}.action_time_mlp_in", both))
        )
        return torch.cat([self.linear(f"{embed}.state_proj", state.double())[:, None], actions], 1), None

    def rotate(self, x, positions):
        half = x.shape[-1] // 2
        angle = positions[..., None, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        first, second = x[..., :half], x[..., half:]
        return torch.cat(
            [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1
        )

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
            mixed = self.attention(self.rotate(query, positions), self.rotate(key, positions), value, allowed)
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


@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2])
@torch.no_grad()
def test_velocity_is_that_of_a_joint_pass(pi05, kv_heads):
    network = backbone(pi05=pi05, kv_heads=kv_heads)
    inputs, x, tau = example(4)
    context = network.encode(inputs)
    v, features = network.velocity(context, x, tau)
    want_v, want_features, want_pooled = Joint(network).velocity(inputs, x, tau)
    assert want_v.abs().max() > 0.3 and want_v.std(0).min() > 0.01
    torch.testing.assert_close(v.double(), want_v, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.double(), want_features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(context.pooled.double(), want_pooled, atol=1e-5, rtol=1e-5)
