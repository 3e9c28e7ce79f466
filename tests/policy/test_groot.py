"""GR00T: parity with an independent reference, padding, prompts, gradients, sizes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pirl_core.errors import UserError
from pirl_core.flow import chain
from pirl_core.flow.chain import Noise
from pirl_core.policy.context import Context, DataSizes, Inputs
from pirl_core.policy.families.groot.head import time_bucket
from pirl_core.policy.families.groot.network import Groot, GrootShape, groot_shape, place_images
from tests.policy.groot_reference import (
    Weights,
    reference_image_features,
    reference_language,
    reference_memory,
    reference_velocity,
)

DATA = DataSizes(image_size=32, cameras=2, vocabulary=40, text_length=7, state_dim=5, action_dim=3, horizon=6)
TINY = groot_shape("S", DATA)._replace(
    vision_width=32, vision_layers=2, vision_heads=2, vision_inner=48, vlm_width=24, vlm_layers=2, vlm_heads=4,
    vlm_kv_heads=2, vlm_head_dim=8, vlm_inner=40, vl_layers=2, vl_heads=3, dit_layers=4, dit_heads=2, dit_head_dim=8,
    expert_width=12, positions=9, embodiments=3, embodiment=1, dropout=0.2,
)  # fmt: skip
FULL = DataSizes(224, 2, 151680, 600, 64, 32, 16)
TAU = torch.tensor([0.0, 0.37, 0.9993])


def small_groot(shape: GrootShape = TINY) -> Groot:
    """Every parameter far from its initial value, so that no mistake hides behind a zero or a one."""
    torch.manual_seed(0)
    model = Groot(shape)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model.eval()


def ragged_inputs(cameras: int = 2, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    valid = torch.arange(7) < torch.tensor([[7], [3], [5]])
    tokens = torch.randint(1, 40, (3, 7), generator=generator) * valid
    images = torch.rand(3, cameras, 3, 32, 32, generator=generator) * 2 - 1
    return Inputs(images, tokens, valid, torch.randn(3, 5, generator=generator))


def noisy(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(9)).to(dtype)


def test_head_is_the_reference():
    """In float64, ragged prefixes: memory to 1e-9, velocity and features to the rounding of float32 angles."""
    model = small_groot().double()
    w = Weights(model.state_dict())
    features, state, valid = torch.randn(3, 8, 24).double(), torch.randn(3, 5).double(), ragged_inputs().tokens_valid
    valid = F.pad(valid, (1, 0), value=True)
    with torch.no_grad():
        memory = model.action_head.remember(features, valid)
        expected = reference_memory(w, TINY, features, valid)
        context = Context(memory, valid, memory.mean(1), state)
        ours = model.velocity(context, noisy(torch.float64), TAU)
        theirs = reference_velocity(w, TINY, expected, valid, state, noisy(torch.float64), TAU)
    torch.testing.assert_close(memory[valid], expected[valid], atol=1e-9, rtol=0)
    for mine, other in zip(ours, theirs):
        assert other.abs().max() > 0.3
        torch.testing.assert_close(mine, other, atol=1e-7, rtol=0)


@pytest.mark.parametrize("inside", [False, True])
def test_whole_network_is_the_reference(inside):
    """From images and ragged prompts to the velocity, ≤ 1e-5; image tokens in front of the text or within it."""
    shape = TINY._replace(stem="patch", image_token=39)
    model = small_groot(shape)
    w = Weights({name: value.double() for name, value in model.state_dict().items()})
    images, text, text_valid, state = ragged_inputs()
    text = text.where(text != 39, 1)
    camera = torch.full((3, shape.patches), 39)
    pieces = [text[:, :1], camera, text[:, 1:2], camera, text[:, 2:]] if inside else [camera, camera, text]
    tokens = torch.cat(pieces, 1)
    valid = F.pad(text_valid, (2 * shape.patches, 0), value=True)
    with torch.no_grad():
        context = model.encode(Inputs(images, tokens, valid, state))
        v, features = model.velocity(context, noisy(), TAU)
        x = w["language_model.embed_tokens.weight"][tokens]
        x[tokens == 39] = reference_image_features(w, shape, images.double()).flatten(0, 1)
        memory = reference_memory(w, shape, reference_language(w, shape, x, valid), valid)
        expected = reference_velocity(w, shape, memory, valid, state.double(), noisy(torch.float64), TAU)
    pooled = torch.stack([row[keep].mean(0) for row, keep in zip(memory, valid)])
    for mine, other in [
        (context.memory[valid], memory[valid]),
        (context.pooled, pooled),
        *zip((v, features), expected),
    ]:
        torch.testing.assert_close(mine.double(), other, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cameras", [0, 2])
def test_neither_padding_nor_other_rows_change_anything(cameras):
    """A prompt alone, padded on the right, padded on the left with other ids: one velocity."""
    model = small_groot()
    inputs = ragged_inputs(cameras)
    left = [row[keep.argsort(stable=True)] for row, keep in zip(inputs.tokens, inputs.tokens_valid)]
    left_valid = inputs.tokens_valid.flip(1)
    moved = inputs._replace(tokens=torch.stack(left).where(left_valid, 7), tokens_valid=left_valid)
    with torch.no_grad():
        v, _ = model.velocity(model.encode(inputs), noisy(), TAU)
        other, _ = model.velocity(model.encode(moved), noisy(), TAU)
        for row, length in enumerate([7, 3, 5]):
            one = Inputs(*(part[row : row + 1] for part in inputs))
            one = one._replace(tokens=one.tokens[:, :length], tokens_valid=one.tokens_valid[:, :length])
            alone, _ = model.velocity(model.encode(one), noisy()[row : row + 1], TAU[row : row + 1])
            torch.testing.assert_close(alone[0], v[row], atol=1e-5, rtol=0)
    torch.testing.assert_close(other, v, atol=1e-5, rtol=0)


def test_equal_prompts_need_no_mask_and_unequal_ones_do():
    """The release masks nothing. Ours agrees with it for prompts of equal length, and only for those."""
    model = small_groot().double()
    w = Weights(model.state_dict())
    features, state = torch.randn(3, 8, 24).double(), torch.randn(3, 5).double()
    valid = F.pad(ragged_inputs().tokens_valid, (1, 0), value=True)
    gaps = []
    with torch.no_grad():
        free = reference_memory(w, TINY, features, None)
        theirs, _ = reference_velocity(w, TINY, free, None, state, noisy(torch.float64), TAU)
        for mask in (torch.ones_like(valid), valid):
            memory = model.action_head.remember(features, mask)
            ours, _ = model.velocity(Context(memory, mask, memory[:, 0], state), noisy(torch.float64), TAU)
            gaps.append((ours - theirs).abs().flatten(1).amax(1))
    assert (gaps[0] < 1e-7).all()
    # The first prompt fills its row, the others do not.
    assert gaps[1][0] < 1e-7 and (gaps[1][1:] > 1e-3).all()


@pytest.mark.parametrize("cameras", [0, 1, 2])
def test_every_input_matters(cameras):
    model = small_groot()
    inputs = ragged_inputs(cameras)
    changed = [inputs._replace(tokens=inputs.tokens % 39 + 1), inputs._replace(state=inputs.state + 0.3)]
    for camera in range(cameras):
        images = inputs.images.clone()
        images[:, camera] *= -1
        changed.append(inputs._replace(images=images))
    with torch.no_grad():
        context = model.encode(inputs)
        base, features = model.velocity(context, noisy(), TAU)
        others = [model.velocity(model.encode(other), noisy(), TAU)[0] for other in changed]
        others.append(model.velocity(context, noisy() + 0.1, TAU)[0])
        others.append(model.velocity(context, noisy(), (TAU + 0.1) / 1.2)[0])
        model.shape = model.shape._replace(embodiment=2)
        others.append(model.velocity(context, noisy(), TAU)[0])
    assert base.shape == (3, 6, 3) and features.shape == (3, 6, 12)
    for other in others:
        assert (other - base).abs().flatten(1).amax(1).min() > 1e-4


def test_plain_text_gets_image_tokens_in_front():
    """As a prompt that holds them there itself; one that holds too few or too many is refused."""
    model, told = small_groot(), small_groot(TINY._replace(image_token=39))
    inputs = ragged_inputs()
    inputs = inputs._replace(tokens=inputs.tokens.where(inputs.tokens != 39, 1))
    count = 2 * TINY.patches
    tokens, valid = place_images(inputs.tokens, inputs.tokens_valid, count, 39)
    assert tokens.shape == (3, count + 7) and (tokens[:, :count] == 39).all() and valid[:, :count].all()
    with torch.no_grad():
        plain, placed = model.encode(inputs), told.encode(inputs._replace(tokens=tokens, tokens_valid=valid))
    for one, other in zip(plain, placed):
        assert torch.equal(one, other)
    for wrong in (inputs, inputs._replace(tokens=tokens[:, 1:], tokens_valid=valid[:, 1:]), ragged_inputs(0)):
        bad = wrong._replace(tokens=wrong.tokens.index_fill(1, torch.tensor([0]), 39))
        with pytest.raises(UserError, match=r"image tokens \(id 39\), but [02] cameras of 4 need [08]: correct"):
            told.encode(bad)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"horizon": 10}, "horizon = 10 exceeds GR00T's 9 positions"), ({"embodiment": 3}, "slots 0 to 2")],
)
def test_bounds_of_the_tables(change, told):
    with pytest.raises(UserError, match=told):
        Groot(TINY._replace(**change))


def test_the_place_of_an_image_says_nothing_itself():
    """An image token is looked up as id 0 and then replaced: id 0's embedding reaches neither VLM nor stem."""
    model = small_groot()
    inputs = ragged_inputs()
    with torch.no_grad():
        before = model.encode(inputs)
        model.language_model.embed_tokens.weight[0] += 1
        after = model.encode(inputs)
    assert torch.equal(before.memory[before.valid], after.memory[after.valid])


def test_evaluation_repeats_itself_and_mutates_nothing():
    """The ratio of a fresh policy is 1: eval is exact, whatever dropout SFT used; train mode does drop."""
    model = small_groot()
    context = model.encode(ragged_inputs())
    before = [part.clone() for part in context]
    first, again = (model.velocity(context, noisy(), TAU)[0] for _ in range(2))
    assert torch.equal(first, again) and all(torch.equal(*pair) for pair in zip(before, context))
    assert torch.equal(model.encode(ragged_inputs()).memory, context.memory)
    model.train()
    assert not torch.equal(model.velocity(context, noisy(), TAU)[0], first)
    assert not torch.equal(model.encode(ragged_inputs()).memory, context.memory)


def test_gradients_reach_the_head_alone_once_the_vlm_is_frozen():
    model = small_groot()

    def with_gradient() -> set[str]:
        model.zero_grad()
        v, features = model.velocity(model.encode(ragged_inputs()), noisy(), TAU)
        (v.square().sum() + features.sum()).backward()
        return {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}

    everything = {name for name, _ in model.named_parameters()}
    # Softmax does not see what all keys have in common; rounding alone may leave something there.
    blind = {name for name in everything if name.endswith(("k_proj.bias", "to_k.bias"))}
    assert with_gradient() | blind == everything
    model.freeze_vlm()
    parts = ("state_encoder", "action_encoder", "action_decoder", "future_tokens", "position_embedding", "model")
    head = {name for name in everything if name.startswith(tuple(f"action_head.{part}." for part in parts))}
    assert {name for name, p in model.named_parameters() if p.requires_grad} == head
    assert with_gradient() | (blind & head) == head
    frozen = {id(p) for module in model.vlm_modules for p in module.parameters()}
    assert frozen == {id(p) for name, p in model.named_parameters() if name not in head}
    assert not model.encode(ragged_inputs()).memory.requires_grad


def test_time_buckets_are_those_of_the_sampler():
    """The release's int(k/K · 1000), at the times that our chain asks for, whatever float32 makes of them."""
    asked = []

    def velocity(x, tau):
        asked.append(tau)
        return x, x

    rule = Noise("constant_sde", 0.0, 0.0, 0.0)
    for steps in range(1, 101):
        asked.clear()
        chain.sample(velocity, torch.zeros(1, steps + 1, 1, 1), torch.zeros(1, steps, dtype=torch.bool), rule, None)
        assert time_bucket(torch.cat(asked)).tolist() == [int(k / steps * 1000) for k in range(steps)], steps
        exact = torch.arange(steps, dtype=torch.float64) / steps
        near = torch.stack([exact.float(), exact.float().nextafter(torch.tensor(0.0)), (1 - (1 - exact)).float()])
        assert (time_bucket(near) == (exact * 1000).round(decimals=6).floor()).all(), steps


def test_sizes():
    data = DataSizes(64, 2, 100, 12, 6, 5, 8)
    millions: dict[str, float] = {}
    with torch.device("meta"):
        for size in ("S", "M", "L", "full"):
            model = Groot(groot_shape(size, FULL if size == "full" else data))
            assert model.context_width == model.shape.vlm_width + model.shape.state_dim
            millions[size] = sum(p.numel() for p in model.parameters()) / 1e6
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert millions == pytest.approx({"S": 1.5, "M": 5, "L": 13, "full": 2398}, rel=0.05)
    # By hand: SigLIP-400M without its pooling head, 1152·2048 + 2048, Qwen3-1.7B's first 12 layers with embeddings.
    assert counts["vision_model"] == 412_442_352 and counts["mlp1"] == 2_361_344
    layer = 2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144 + 2 * 2048 + 2 * 128
    assert counts["language_model"] == 151680 * 2048 + 12 * layer + 2048
    # With the unused output layer and pooling head the release has 2.72 billion.
    pooling = 1152 + 4 * 1152 * 1153 + 2 * 1152 + 1152 * 4304 * 2 + 4304 + 1152
    assert sum(counts.values()) + 151680 * 2048 + pooling == pytest.approx(2.72e9, rel=2e-3)
