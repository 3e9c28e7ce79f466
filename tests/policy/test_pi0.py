"""π0 and π0.5: parity with transformers and with a joint pass in float64, precision, checkpointing, full size."""

import pytest
import torch
import torch.nn.functional as F
from transformers import PI0ForConditionalGeneration
from transformers.models.pi0.modeling_pi0 import PI0TimestepEmbeddings

from pirl_core.flow import chain
from pirl_core.flow.chain import Noise
from pirl_core.policy.context import DataSizes, Inputs
from pirl_core.policy.families.pi0.network import Pi0, Pi0Shape, pi0_config, pi0_shape
from pirl_core.policy.layers import way_to_run
from tests.policy.pi0_reference import Joint, sinusoid

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
    """Four steps of our own chain against ``sample_actions``, from the same noise."""
    network = backbone()
    inputs, x, _ = example()
    start, still = x[:, None].expand(-1, 5, -1, -1), torch.zeros(len(x), 4, dtype=torch.bool)
    with torch.no_grad():
        context = network.encode(inputs)
        states, _ = chain.sample(
            lambda x, tau: network.velocity(context, x, tau), start, still, Noise("constant_sde", 0, 0, 0), None
        )
        ours = states[:, -1]
    given = transformers_inputs(inputs, "two")
    theirs = transformers_model(network, monkeypatch).sample_actions(noise=x, num_steps=4, **given)
    assert (theirs - x).abs().max() > 0.3
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


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


def test_a_fresh_expert_of_pi05_passes_its_tokens_on():
    """Zero gates: whatever the time and the prefix, v is the normed projection of the noisy actions."""
    torch.manual_seed(0)
    network = Pi0(TINY._replace(pi05=True))
    inputs, x, tau = example()
    v, _ = network.velocity(network.encode(inputs), x, tau)
    tokens = network.pi0.embed_action_time.action_in_proj(x)
    normed = tokens / (tokens.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(v, -network.pi0.action_out_proj(normed), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("pi05", [False, True])
@torch.no_grad()
def test_velocity_leaves_the_context_as_it_was(pi05):
    network = backbone(pi05=pi05)
    inputs, x, tau = example()
    context = network.encode(inputs)
    before = [part.clone() for part in context]
    first = network.velocity(context, x, tau)
    network.velocity(context, x + 1, tau / 2)
    again = network.velocity(context, x, tau)
    assert all(torch.equal(a, b) for a, b in zip(context, before, strict=True))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("how", ["autocast", "weights", "vlm"])
@torch.no_grad()
def test_bfloat16_keeps_the_time(pi05, how):
    """By autocast, all weights, or those of the frozen VLM alone. A buffer of frequencies in bfloat16 would be off by
    up to 1.9 in the embedding and by a quarter in the velocity."""
    network = backbone(pi05=pi05)
    inputs, x, tau = example()
    exact, _ = network.velocity(network.encode(inputs), x, tau)
    if how == "weights":
        network.to(torch.bfloat16)
    elif how == "vlm":
        network.vlm.to(torch.bfloat16)
    seen = []
    embed = network.pi0.embed_action_time
    first = embed.time_mlp_in if pi05 else embed.action_time_mlp_in
    first.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        context = network.encode(inputs)
        v, _ = network.velocity(context, x, tau)
    assert context.memory.dtype == torch.bfloat16
    time = seen[0] if pi05 else seen[0][:, 0, TINY.expert_width :]
    torch.testing.assert_close(time.double(), sinusoid(1 - tau.double(), TINY.expert_width), atol=4e-3, rtol=0)
    assert (v.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_checkpointing_saves_memory_and_no_gradient(pi05, stem):
    results = []
    for checkpointing in (False, True):
        network = backbone(pi05=pi05, stem=stem, patch=8 if stem == "patch" else 12)
        network.run_layer = way_to_run(checkpointing, False, torch.device("cpu"))
        inputs, x, tau = example()
        if stem == "conv":
            inputs = inputs._replace(images=F.pad(inputs.images, (0, 8, 0, 8)))
        kept: list[int] = []

        def keep(tensor, kept=kept):
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            context = network.encode(inputs)
            v, features = network.velocity(context, x, tau)
        (v.square().sum() + features.sum() + context.pooled.square().sum()).backward()
        results.append((sum(kept), v, {name: p.grad for name, p in network.named_parameters()}))
    (all_kept, v, gradients), (few_kept, again, others) = results
    assert few_kept < 0.5 * all_kept and torch.equal(v, again)
    for name, gradient in gradients.items():
        assert gradient is not None, name
        torch.testing.assert_close(gradient, others[name], msg=name)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6


def test_full_size():
    """The published sizes, in millions of parameters; no memory is taken for them."""
    with torch.device("meta"):
        pi0, pi05 = (Pi0(pi0_shape("full", FULL, variant)) for variant in (False, True))
    for network in (pi0, pi05):
        assert count(network.vlm.vision_tower) == pytest.approx(412.4, abs=0.1)
        assert count(network.vlm.multi_modal_projector) == pytest.approx(2.4, abs=0.1)
        assert count(network.vlm.language_model) == pytest.approx(2508.5, abs=0.1)
    assert count(pi0.pi0.model.dit) == pytest.approx(311.5, abs=0.1)
    # Each of the 37 norms has 1024 x 3072 + 3072 numbers in place of 1024.
    assert count(pi05.pi0.model.dit) == pytest.approx(311.5 + 37 * (1024 * 3072 + 2 * 1024) / 1e6, abs=0.1)
    assert count(pi0) == pytest.approx(3238.0, abs=0.1) and count(pi05) == pytest.approx(3353.4, abs=0.1)
    images, state = torch.empty(1, 3, 3, 224, 224, device="meta"), torch.empty(1, 32, device="meta")
    tokens = torch.empty(1, 48, dtype=torch.long, device="meta")
    with torch.no_grad():
        context = pi05.encode(Inputs(images, tokens, tokens.bool(), state))
        v, features = pi05.velocity(context, torch.empty(1, 50, 32, device="meta"), torch.empty(1, device="meta"))
    assert context.memory.shape == (1, 18, 2, 1, 3 * 256 + 48, 256) and context.pooled.shape == (1, 2048)
    assert v.shape == (1, 50, 32) and features.shape == (1, 50, 1024)


@pytest.mark.parametrize(("size", "millions"), [("S", 1.5), ("M", 5), ("L", 13)])
@pytest.mark.parametrize("pi05", [False, True])
def test_small_sizes(size, millions, pi05):
    data = DataSizes(64, 2, 60, 12, 4, 4, 10)
    with torch.device("meta"):
        network = Pi0(pi0_shape(size, data, pi05))
    assert 0.85 * millions < count(network) < 1.15 * millions


@pytest.mark.parametrize("pi05", [False, True])
@torch.no_grad()
def test_weights_make_a_network_of_the_meta_device(pi05):
    """A large model is built without memory and takes its weights as they are: nothing else is kept in it."""
    network = backbone(pi05=pi05)
    with torch.device("meta"):
        empty = Pi0(network.shape)
    empty.load_state_dict(network.state_dict(), assign=True)
    inputs, x, tau = example()
    (want, _), (v, _) = (n.velocity(n.encode(inputs), x, tau) for n in (network, empty))
    assert torch.equal(v, want) and not list(network.buffers())
