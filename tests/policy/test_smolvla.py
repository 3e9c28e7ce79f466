"""SmolVLA: parity with a joint pass in float64, the cached context, gradients, precision, sizes."""

import pytest
import torch
import torch.nn.functional as F

from pirl_core.errors import UserError
from pirl_core.policy.context import DataSizes, Inputs
from pirl_core.policy.families.smolvla.network import SmolVla, SmolVlaShape, smolvla_shape
from pirl_core.policy.layers import way_to_run

TINY = SmolVlaShape(
    image_size=64, cameras=3, vocabulary=30, text_length=6, state_dim=4, action_dim=3, horizon=5, vlm_width=48,
    vlm_layers=4, vlm_mlp=56, vision_width=24, vision_layers=2, vision_heads=3, vision_mlp=40, patch=16, shuffle=2,
    expert_width=36, expert_mlp=44, heads=6, kv_heads=2, head_dim=10, stem="patch",
)  # fmt: skip


def backbone(**changes):
    """A random network whose every parameter is far from its initial value."""
    torch.manual_seed(0)
    network = SmolVla(TINY._replace(**changes))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return network.eval()


def example(cameras=2, count=3):
    """Inputs of ragged prompts, noisy actions and times."""
    generator = torch.Generator().manual_seed(1)
    valid = torch.arange(TINY.text_length) < torch.tensor([6, 2, 4])[:count, None]
    inputs = Inputs(
        torch.rand(count, cameras, 3, TINY.image_size, TINY.image_size, generator=generator) * 2 - 1,
        torch.randint(1, TINY.vocabulary, valid.shape, generator=generator) * valid,
        valid,
        torch.randn(count, TINY.state_dim, generator=generator),
    )
    x = torch.randn(count, TINY.horizon, TINY.action_dim, generator=generator)
    return inputs, x, torch.tensor([0.0, 0.4, 0.93])[:count]


class Joint:
    """Independent reference in float64: one observation at a time, without padding; prefix and actions in one pass."""

    def __init__(self, network):
        self.shape = network.shape
        self.stem = network.stem
        self.weights = {name: value.double() for name, value in network.state_dict().items()}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0)

    def layer_norm(self, name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def rms_norm(self, name, x):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weights[f"{name}.weight"]

    def mlp(self, name, x):
        opened = F.silu(self.linear(f"{name}.gate_proj", x)) * self.linear(f"{name}.up_proj", x)
        return self.linear(f"{name}.down_proj", opened)

    def attention(self, query, key, value, heads, sees):
        """query (T, ·), key, value (S, ·), sees (T, S), head by head; heads share keys in consecutive groups."""
        width = query.shape[1] // heads
        group = heads // (key.shape[1] // width)
        mixed = []
        for h in range(heads):
            own, shared = slice(h * width, (h + 1) * width), slice(h // group * width, (h // group + 1) * width)
            scores = query[:, own] @ key[:, shared].T / width**0.5
            mixed.append(scores.masked_fill(~sees, -torch.inf).softmax(1) @ value[:, shared])
        return torch.cat(mixed, 1)

    def rotated(self, x, positions):
        """x (T, heads·E): each pair (i, i + E/2) of a head turned by position·10000^(−2i/E)."""
        width = self.shape.head_dim
        out = x.clone()
        for start in range(0, x.shape[1], width):
            for i in range(width // 2):
                angle = positions.double() * 10000.0 ** (-2 * i / width)
                a, b = x[:, start + i], x[:, start + i + width // 2]
                out[:, start + i] = a * angle.cos() - b * angle.sin()
                out[:, start + i + width // 2] = b * angle.cos() + a * angle.sin()
        return out

    def image(self, image, meaning):
        """(3, s, s) → (tokens, W)."""
        vision, patch, shuffle = "vlm.vision_model", self.shape.patch, self.shape.shuffle
        side = self.shape.image_size // patch
        if self.stem is None:
            kernel = self.weights[f"{vision}.embeddings.patch_embedding.weight"].flatten(1)
            cuts = [
                image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].flatten()
                for r in range(side)
                for c in range(side)
            ]
            x = torch.stack(cuts) @ kernel.T + self.weights[f"{vision}.embeddings.patch_embedding.bias"]
        else:
            x = self.stem(image[None].float(), meaning[None].float())[0].double()
        x = x + self.weights[f"{vision}.embeddings.position_embedding.weight"]
        everything = torch.ones(len(x), len(x), dtype=torch.bool)
        for i in range(self.shape.vision_layers):
            name = f"{vision}.encoder.layers.{i}"
            h = self.layer_norm(f"{name}.layer_norm1", x)
            query, key, value = (self.linear(f"{name}.self_attn.{p}_proj", h) for p in "qkv")
            mixed = self.attention(query, key, value, self.shape.vision_heads, everything)
            x = x + self.linear(f"{name}.self_attn.out_proj", mixed)
            h = F.gelu(self.linear(f"{name}.mlp.fc1", self.layer_norm(f"{name}.layer_norm2", x)), approximate="tanh")
            x = x + self.linear(f"{name}.mlp.fc2", h)
        x = self.layer_norm(f"{vision}.post_layernorm", x)
        # One token of shuffle × shuffle neighbours, row by row.
        neighbours = [
            torch.cat([x[(r + i) * side + c + j] for i in range(shuffle) for j in range(shuffle)])
            for r in range(0, side, shuffle)
            for c in range(0, side, shuffle)
        ]
        return self.linear("vlm.connector.modality_projection.proj", torch.stack(neighbours))

    def velocity(self, images, tokens, state, x, tau):
        """(C, 3, s, s), (L,) without padding, (S,), (H, D), () → velocity, features, pooled."""
        scale = self.shape.vlm_width**0.5
        text = self.weights["vlm.text_model.embed_tokens.weight"][tokens] * scale
        seen = [self.image(image.double(), text.mean(0)) * scale for image in images]
        prefix = torch.cat([*seen, text, self.linear("state_proj", state.double())[None]])
        periods = 0.004 * 1000 ** torch.linspace(0, 1, self.shape.expert_width // 2, dtype=torch.float64)
        angles = 2 * torch.pi * (1 - tau.double()) / periods
        time = torch.cat([angles.sin(), angles.cos()]).expand(len(x), -1)
        hidden = torch.cat([self.linear("action_in_proj", x.double()), time], 1)
        suffix = self.linear("action_time_mlp_out", F.silu(self.linear("action_time_mlp_in", hidden)))
        p, total = len(prefix), len(prefix) + len(suffix)
        # Blocks: images and text 0, the state 1, then an action each. A token sees its own block and those before.
        block = torch.cat([torch.zeros(p - 1), torch.arange(1, total - p + 2)])
        sees = block[:, None] >= block[None]
        positions = torch.arange(total)
        streams = {"vlm.text_model": prefix, "lm_expert": suffix}
        for i in range(self.shape.vlm_layers):
            projected = {}
            for name, h in streams.items():
                normed = self.rms_norm(f"{name}.layers.{i}.input_layernorm", h)
                kinds = "q" if name == "lm_expert" and i % 2 else "qkv"
                projected[name] = {k: self.linear(f"{name}.layers.{i}.self_attn.{k}_proj", normed) for k in kinds}
            below, above = projected.values()
            if i % 2 == 0:
                query, key, value = (torch.cat([below[k], above[k]]) for k in "qkv")
                query, key = self.rotated(query, positions), self.rotated(key, positions)
                mixed = self.attention(query, key, value, self.shape.heads, sees)
            else:
                key = self.rotated(below["k"], positions[:p])
                query = self.rotated(below["q"], positions[:p])
                first = self.attention(query, key, below["v"], self.shape.heads, sees[:p, :p])
                key = self.linear(f"lm_expert.layers.{i}.self_attn.k_proj", key)
                value = self.linear(f"lm_expert.layers.{i}.self_attn.v_proj", below["v"])
                query = self.rotated(above["q"], torch.arange(total - p))
                mixed = torch.cat([first, self.attention(query, key, value, self.shape.heads, sees[p:, :p])])
            for (name, h), own in zip(list(streams.items()), (mixed[:p], mixed[p:]), strict=True):
                layer = f"{name}.layers.{i}"
                h = h + self.linear(f"{layer}.self_attn.o_proj", own)
                streams[name] = h + self.mlp(f"{layer}.mlp", self.rms_norm(f"{layer}.post_attention_layernorm", h))
        features = self.rms_norm("lm_expert.norm", streams["lm_expert"])
        pooled = self.rms_norm("vlm.text_model.norm", streams["vlm.text_model"]).mean(0)
        return -self.linear("action_out_proj", features), features, pooled


@pytest.mark.parametrize(("cameras", "changes"), [
    (2, {}),
    (3, {"shuffle": 4, "vlm_layers": 3, "kv_heads": 6}),
    (1, {"shuffle": 1, "stem": "conv"}),
    (0, {}),
])  # fmt: skip
@torch.no_grad()
def test_velocity_is_that_of_a_joint_pass(cameras, changes):
    network = backbone(**changes)
    inputs, x, tau = example(cameras)
    context = network.encode(inputs)
    v, features = network.velocity(context, x, tau)
    rows = range(len(x))
    want = [
        Joint(network).velocity(
            inputs.images[i], inputs.tokens[i, inputs.tokens_valid[i]], inputs.state[i], x[i], tau[i]
        )
        for i in rows
    ]
    want_v, want_features, want_pooled = (torch.stack(part) for part in zip(*want, strict=True))
    assert want_v.abs().max() > 0.3 and want_v.std(0).min() > 0.01 and want_v.std(1).min() > 0.01
    assert context.pooled.shape[1] + context.state.shape[1] == network.context_width
    assert features.shape == (3, TINY.horizon, TINY.expert_width)
    torch.testing.assert_close(v.double(), want_v, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.double(), want_features, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(context.pooled.double(), want_pooled, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_velocity_leaves_the_context_and_its_inputs():
    network = backbone()
    inputs, x, tau = example()
    context = network.encode(inputs)
    before = [part.clone() for part in (*context, x, tau)]
    first, _ = network.velocity(context, x, tau)
    network.velocity(context, x + 1, tau / 2)
    again, _ = network.velocity(context, x, tau)
    assert torch.equal(first, again)
    assert all(torch.equal(a, b) for a, b in zip((*context, x, tau), before, strict=True))


@pytest.mark.parametrize("cameras", [0, 1, 3])
@torch.no_grad()
def test_every_input_matters_and_padding_does_not(cameras):
    network = backbone()
    inputs, x, tau = example(cameras)

    def velocity(inputs, x, tau):
        return network.velocity(network.encode(inputs), x, tau)[0]

    base = velocity(inputs, x, tau)
    images = [inputs.images.clone() for _ in range(cameras)]
    for camera, changed in enumerate(images):
        changed[:, camera] *= -1
    others = [inputs._replace(images=changed) for changed in images]
    others += [inputs._replace(state=inputs.state + 1), inputs._replace(tokens=(inputs.tokens + 1) % TINY.vocabulary)]
    others += [inputs._replace(images=inputs.images.flip(1))] if cameras > 1 else []
    outputs = [velocity(other, x, tau) for other in others] + [
        velocity(inputs, x + 1, tau),
        velocity(inputs, x, tau + 0.05),
    ]
    assert min((output - base).abs().amax((1, 2)).min() for output in outputs) > 1e-3
    padded = inputs._replace(tokens=torch.where(inputs.tokens_valid, inputs.tokens, 7))
    torch.testing.assert_close(velocity(padded, x, tau), base, atol=1e-6, rtol=0)


@torch.no_grad()
def test_actions_are_causal():
    network = backbone()
    inputs, x, tau = example()
    context = network.encode(inputs)
    base, _ = network.velocity(context, x, tau)
    moved, _ = network.velocity(context, torch.cat([x[:, :3], x[:, 3:] + 1], 1), tau)
    assert torch.equal(moved[:, :3], base[:, :3]) and (moved[:, 3:] - base[:, 3:]).abs().amin(2).min() > 1e-4


def test_gradients_reach_the_expert_and_not_the_frozen_vlm():
    network = backbone(shuffle=1, stem="conv")
    network.freeze_vlm()
    inputs, x, tau = example()
    v, _ = network.velocity(network.encode(inputs), x.requires_grad_(), tau)
    v.square().sum().backward()
    frozen = {id(parameter) for module in network.vlm_modules for parameter in module.parameters()}
    for name, parameter in network.named_parameters():
        assert name.startswith(("vlm.", "stem.", "state_proj.")) == (id(parameter) in frozen), name
        assert (parameter.grad is None) == (id(parameter) in frozen), name
        assert parameter.grad is None or parameter.grad.abs().max() > 0, name
    assert x.grad is not None and x.grad.abs().max() > 0


def test_checkpointing_gives_the_same_gradients():
    inputs, x, tau = example()
    gradients = []
    for checkpointing in (False, True):
        network = backbone()
        network.run_layer = way_to_run(checkpointing, False, torch.device("cpu"))
        network.velocity(network.encode(inputs), x, tau)[0].square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and any(name.startswith("vlm.vision") for name in gradients[0])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("way", ["weights", "vlm", "autocast"])
@torch.no_grad()
def test_bfloat16_keeps_the_time(way):
    """All weights, those of the frozen VLM alone, or autocast: the velocity is that of the rounded weights in float32,
    to the precision of the arithmetic. The periods of time and of positions are not rounded."""
    exact, network = backbone(), backbone()
    for module in [network] if way == "weights" else network.vlm_modules if way == "vlm" else []:
        module.to(torch.bfloat16)
    exact.load_state_dict({name: value.float() for name, value in network.state_dict().items()})
    inputs, x, _ = example()
    for tau in (0.123, 0.5001, 0.8765):
        times = torch.full((3,), tau)
        want, _ = exact.velocity(exact.encode(inputs), x, times)
        with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
            context = network.encode(inputs)
            v, _ = network.velocity(context, x, times)
        assert context.memory.dtype == torch.bfloat16 and context.pooled.dtype == torch.float32
        assert (v.float() - want).abs().mean() < 0.03 * want.abs().mean()


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_full_size_is_that_of_the_release():
    """lerobot/smolvla_base: 450 046 176 parameters, 99 880 992 of them trained on a frozen VLM."""
    with torch.device("meta"):
        network = SmolVla(smolvla_shape("full", DataSizes(512, 3, 49280, 48, 32, 32, 50)))
    heads = [network.action_in_proj, network.action_time_mlp_in, network.action_time_mlp_out, network.action_out_proj]
    assert count(network.vlm.vision_model) == 86_433_024
    assert count(network.vlm.connector) == 11_796_480
    assert count(network.vlm.text_model) == 204_626_880
    assert count(network.lm_expert) == 98_245_840
    assert count(network.lm_expert) + sum(map(count, heads)) + count(network.state_proj) == 99_880_992
    assert count(network) + 49280 * 960 == 450_046_176
    assert not list(network.buffers())


@pytest.mark.parametrize(("size", "millions"), [("S", 1.6), ("M", 5.1), ("L", 12.4)])
def test_small_sizes(size, millions):
    data = DataSizes(64, 2, 60, 12, 4, 4, 8)
    with torch.device("meta"):
        network = SmolVla(smolvla_shape(size, data))
    assert count(network) / 1e6 == pytest.approx(millions, abs=0.05)
    assert network.stem is not None and network.shape[: len(data)] == data


def test_images_that_do_not_divide_are_told():
    with pytest.raises(UserError, match="image size 224: SmolVLA of size full takes multiples of 64 pixels"):
        smolvla_shape("full", DataSizes(224, 3, 49280, 48, 32, 32, 50))
