"""The layouts of published π0 and π0.5 weights: the complete key sets, written down from openpi's modules."""

import pytest
import torch

from pirl_core.errors import UserError
from pirl_core.policy.context import DataSizes
from pirl_core.policy.layouts.pi0 import (
    lerobot_keys,
    lerobot_names,
    openpi_keys,
    openpi_names,
    sources,
    unread_shapes,
)
from pirl_core.policy.pi0 import Pi0, Pi0Shape, pi0_shape

FULL = pi0_shape("full", DataSizes(224, 3, 257152, 48, 32, 32, 50), False)
TINY = Pi0Shape(
    image_size=28, cameras=2, vocabulary=9, text_length=6, state_dim=3, action_dim=3, horizon=5, vlm_width=16,
    vlm_layers=2, vlm_mlp=24, vision_width=8, vision_layers=2, vision_heads=2, vision_mlp=12, patch=14, expert_width=12,
    expert_mlp=20, heads=2, kv_heads=1, head_dim=8, pi05=False, stem="patch",
)  # fmt: skip
PALIGEMMA, EXPERT = "paligemma_with_expert.paligemma", "paligemma_with_expert.gemma_expert"
TIED = f"{PALIGEMMA}.lm_head.weight"
EMBEDDING = f"{PALIGEMMA}.model.language_model.embed_tokens.weight"


def linear(name, inner, outer, bias=True):
    return {f"{name}.weight": (outer, inner), **({f"{name}.bias": (outer,)} if bias else {})}


def gemma(name, s, width, mlp, adaptive):
    keys: dict[str, tuple[int, ...]] = {}
    for i in range(s.vlm_layers):
        layer = f"{name}.layers.{i}"
        keys |= linear(f"{layer}.self_attn.q_proj", width, s.heads * s.head_dim, False)
        keys |= linear(f"{layer}.self_attn.k_proj", width, s.kv_heads * s.head_dim, False)
        keys |= linear(f"{layer}.self_attn.v_proj", width, s.kv_heads * s.head_dim, False)
        keys |= linear(f"{layer}.self_attn.o_proj", s.heads * s.head_dim, width, False)
        keys |= linear(f"{layer}.mlp.gate_proj", width, mlp, False)
        keys |= linear(f"{layer}.mlp.up_proj", width, mlp, False)
        keys |= linear(f"{layer}.mlp.down_proj", mlp, width, False)
    norms = [f"{name}.layers.{i}.{n}_layernorm" for i in range(s.vlm_layers) for n in ("input", "post_attention")]
    for norm in [*norms, f"{name}.norm"]:
        keys |= linear(f"{norm}.dense", width, 3 * width) if adaptive else {f"{norm}.weight": (width,)}
    return keys


def siglip(name, s):
    w = s.vision_width
    keys = {
        f"{name}.embeddings.patch_embedding.weight": (w, 3, s.patch, s.patch),
        f"{name}.embeddings.patch_embedding.bias": (w,),
        f"{name}.embeddings.position_embedding.weight": ((s.image_size // s.patch) ** 2, w),
        f"{name}.post_layernorm.weight": (w,),
        f"{name}.post_layernorm.bias": (w,),
    }
    for i in range(s.vision_layers):
        layer = f"{name}.encoder.layers.{i}"
        for norm in ("layer_norm1", "layer_norm2"):
            keys |= {f"{layer}.{norm}.weight": (w,), f"{layer}.{norm}.bias": (w,)}
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            keys |= linear(f"{layer}.self_attn.{projection}", w, w)
        keys |= linear(f"{layer}.mlp.fc1", w, s.vision_mlp) | linear(f"{layer}.mlp.fc2", s.vision_mlp, w)
    return keys


def openpi_layout(s):
    """Key → shape of openpi's safetensors file: the tied embedding is stored as lm_head."""
    keys = siglip(f"{PALIGEMMA}.model.vision_tower.vision_model", s)
    keys |= linear(f"{PALIGEMMA}.model.multi_modal_projector.linear", s.vision_width, s.vlm_width)
    keys |= gemma(f"{PALIGEMMA}.model.language_model", s, s.vlm_width, s.vlm_mlp, False)
    keys |= gemma(f"{EXPERT}.model", s, s.expert_width, s.expert_mlp, s.pi05)
    keys |= {TIED: (s.vocabulary, s.vlm_width), f"{EXPERT}.lm_head.weight": (s.vocabulary, s.expert_width)}
    keys |= linear("action_in_proj", s.action_dim, s.expert_width)
    keys |= linear("action_out_proj", s.expert_width, s.action_dim)
    if s.pi05:
        keys |= linear("time_mlp_in", s.expert_width, s.expert_width)
        return keys | linear("time_mlp_out", s.expert_width, s.expert_width)
    keys |= linear("state_proj", s.state_dim, s.expert_width)
    keys |= linear("action_time_mlp_in", 2 * s.expert_width, s.expert_width)
    return keys | linear("action_time_mlp_out", s.expert_width, s.expert_width)


def both(key):
    """A file that holds the embedding under both names."""
    return [TIED, EMBEDDING] if key == TIED else [key]


VARIANTS = {
    "openpi": lambda key: [key],
    "untied": lambda key: [EMBEDDING if key == TIED else key],
    "twice": both,
    "lerobot": lambda key: ["model." + key],
    "transformers 5": lambda key: [key.replace("vision_model.", "")],
    "lerobot on transformers 5": lambda key: ["model." + name.replace("vision_model.", "") for name in both(key)],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pi05", [False, True])
@pytest.mark.parametrize("size", [TINY, FULL], ids=["tiny", "full"])
def test_every_tensor_finds_its_place(size, pi05, variant):
    """Names and shapes, one to one, also of the published size, which takes no memory here."""
    shape = size._replace(pi05=pi05)
    theirs = {key: s for name, s in openpi_layout(shape).items() for key in VARIANTS[variant](name)}
    with torch.device("meta"):
        network = Pi0(shape)
    read = sources(theirs)
    assert {name: theirs[key] for name, key in read.items()} == {
        name: tuple(value.shape) for name, value in network.state_dict().items()
    }
    left = set(theirs) - set(read.values())
    assert left == {key for key in theirs if key.endswith("gemma_expert.lm_head.weight")} | (
        {key for key in theirs if key.endswith(TIED)} if any(key.endswith(EMBEDDING) for key in theirs) else set()
    )


@pytest.mark.parametrize("pi05", [False, True])
def test_round_trip_is_bit_equal(pi05):
    shape = TINY._replace(pi05=pi05)
    layout = openpi_layout(shape)
    file = {key: torch.randn(size) for key, size in layout.items()}
    network = Pi0(shape)
    network.load_state_dict({name: file[key] for name, key in sources(file).items()})
    for names, keys, prefix in ((openpi_names, openpi_keys, ""), (lerobot_names, lerobot_keys, "model.")):
        written = {keys(name): value for name, value in network.state_dict().items()}
        unread = {prefix + key: torch.zeros(size) for key, size in unread_shapes(shape).items()}
        assert {key: value.shape for key, value in (written | unread).items()} == {
            prefix + key: torch.Size(size) for key, size in layout.items()
        }
        for key, value in written.items():
            assert torch.equal(value, file[key.removeprefix(prefix)]), key
        assert {names(key) for key in written} == set(network.state_dict())
        assert all(names(key) is None for key in unread)


def test_the_embedding_that_runs_is_taken():
    for keys in ([TIED, EMBEDDING], [EMBEDDING, TIED]):
        assert list(sources(keys).values()) == [EMBEDDING]
    assert list(sources([TIED]).values()) == [TIED]


def test_strange_keys_are_told():
    for key in ("model.normalize_inputs.buffer_state.mean", "action_head.model.proj_out_1.weight"):
        with pytest.raises(UserError, match=key.removeprefix("model.")):
            sources([key])
    with pytest.raises(UserError, match=r"stem\.convolutions"):
        openpi_keys("stem.convolutions.0.weight")
