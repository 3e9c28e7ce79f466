"""The layouts of published π0 and π0.5 weights: the complete key sets, written down from openpi's modules."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from pirl_core.checkpoints.export import Layout, export
from pirl_core.checkpoints.read import load_weights, open_weights
from pirl_core.errors import UserError
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.pi0 import layout as layouts
from pirl_core.policy.families.pi0.network import Pi0, Pi0Shape, pi0_shape

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


OPENPI = (layouts.openpi_names, layouts.openpi_keys, layouts.OPENPI_TIES, layouts.openpi_unused)
LEROBOT = (layouts.lerobot_names, layouts.lerobot_keys, layouts.LEROBOT_TIES, layouts.lerobot_unused)
VARIANTS = {
    "openpi": (OPENPI, lambda key: [key]),
    "untied": (OPENPI, lambda key: [EMBEDDING if key == TIED else key]),
    "twice": (OPENPI, both),
    "transformers 5": (OPENPI, lambda key: [key.replace("vision_model.", "")]),
    "lerobot": (LEROBOT, lambda key: ["model." + key]),
    "lerobot, twice": (LEROBOT, lambda key: ["model." + name for name in both(key)]),
    "lerobot on transformers 5": (LEROBOT, lambda key: ["model." + key.replace("vision_model.", "")]),
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pi05", [False, True])
def test_every_tensor_of_the_full_size_finds_its_place(pi05, variant):
    """Names and shapes, one to one; no memory is taken."""
    shape = FULL._replace(pi05=pi05)
    (names, _, ties, unused), variation = VARIANTS[variant]
    theirs = {key: size for name, size in openpi_layout(shape).items() for key in variation(name)}
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in Pi0(shape).state_dict().items()}
    found = {names(key): size for key, size in theirs.items()}
    found |= {name: theirs[key] for name, key in ties.items() if name not in found}
    dropped = [key for key in theirs if names(key) is None]
    assert sorted(dropped) == sorted([*unused(shape), *(key for key in theirs if key.endswith(TIED))])
    found.pop(None)
    assert found == ours and len(theirs) - len(dropped) <= len(ours)
    for prefix, layout in (("", OPENPI), ("model.", LEROBOT)):
        written = {layout[1](name): size for name, size in ours.items()} | layout[3](shape)
        assert written == {prefix + key: size for key, size in openpi_layout(shape).items()}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pi05", [False, True])
def test_round_trip_is_bit_equal(pi05, variant, tmp_path):
    """A file of each layout is read, and written as its project writes it. Where the embedding is there twice,
    embed_tokens is read, which is what both projects run."""
    shape = TINY._replace(pi05=pi05)
    (names, keys, ties, unused), variation = VARIANTS[variant]
    tensors = {key: torch.randn(size) for key, size in openpi_layout(shape).items()}
    file = {name: value for key, value in tensors.items() for name in variation(key)}
    for key in [key for key in file if key.endswith(TIED) and len(variation(TIED)) == 2]:
        file[key] = torch.zeros(file[key].shape)
    save_file(file, tmp_path / "model.safetensors")
    network = Pi0(shape)
    load_weights(network, open_weights(tmp_path), names, ties)
    export(network.state_dict(), Layout(keys, {}, unused(shape), {}), tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    prefix = "model." if keys is layouts.lerobot_keys else ""
    assert written.keys() == {prefix + key for key in tensors}
    for key, value in tensors.items():
        assert torch.equal(written[prefix + key], torch.zeros_like(value) if prefix + key in unused(shape) else value)
    other = Pi0(shape)
    load_weights(other, open_weights(tmp_path / "out"), names, ties)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in network.state_dict().items())


def test_strange_keys_are_told():
    for key in ("model.dsrl_action_noise_net.weight", "action_head.model.proj_out_1.weight"):
        with pytest.raises(UserError, match=key.removeprefix("model.")):
            layouts.lerobot_names(key)
    with pytest.raises(UserError, match=r"^lm_expert\.norm\.weight: π0 has no such tensor"):
        layouts.openpi_keys("lm_expert.norm.weight")
