"""GR00T's key map against the published layout, which is written down here from its architecture and sizes."""

import pytest
import torch
from safetensors.torch import save_file

from pirl_core.checkpoints.read import load_weights, open_weights
from pirl_core.errors import UserError
from pirl_core.policy.families.groot.layout import (
    ISAAC_TIES,
    LEROBOT_TIES,
    isaac_keys,
    isaac_names,
    lerobot_keys,
    lerobot_names,
)
from pirl_core.policy.families.groot.network import Groot, groot_shape
from tests.policy.test_groot import FULL, TINY, small_groot

Layout = dict[str, tuple[int, ...]]


def linear(name: str, inner: int, outer: int, bias: bool = True) -> Layout:
    return {f"{name}.weight": (outer, inner)} | ({f"{name}.bias": (outer,)} if bias else {})


def norm(name: str, width: int) -> Layout:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def slots(name: str, inner: int, outer: int) -> Layout:
    return {f"{name}.W": (32, inner, outer), f"{name}.b": (32, outer)}


def vision() -> Layout:
    tower = "backbone.eagle_model.vision_model.vision_model"
    layout = {
        f"{tower}.embeddings.patch_embedding.weight": (1152, 3, 14, 14),
        f"{tower}.embeddings.patch_embedding.bias": (1152,),
        f"{tower}.embeddings.position_embedding.weight": (256, 1152),
    }
    for index in range(27):
        layer = f"{tower}.encoder.layers.{index}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            layout |= linear(f"{layer}.self_attn.{part}", 1152, 1152)
        layout |= linear(f"{layer}.mlp.fc1", 1152, 4304) | linear(f"{layer}.mlp.fc2", 4304, 1152)
        layout |= norm(f"{layer}.layer_norm1", 1152) | norm(f"{layer}.layer_norm2", 1152)
    return layout | norm(f"{tower}.post_layernorm", 1152) | linear("backbone.eagle_model.mlp1.0", 1152, 2048)


def language(layers: range) -> Layout:
    layout: Layout = {}
    for index in layers:
        layer = f"backbone.eagle_model.language_model.model.layers.{index}"
        for part, inner, outer in [("q", 2048, 2048), ("k", 2048, 1024), ("v", 2048, 1024), ("o", 2048, 2048)]:
            layout |= linear(f"{layer}.self_attn.{part}_proj", inner, outer, bias=False)
        for part, inner, outer in [("gate", 2048, 6144), ("up", 2048, 6144), ("down", 6144, 2048)]:
            layout |= linear(f"{layer}.mlp.{part}_proj", inner, outer, bias=False)
        for part in ("q_norm", "k_norm"):
            layout[f"{layer}.self_attn.{part}.weight"] = (128,)
        for part in ("input_layernorm", "post_attention_layernorm"):
            layout[f"{layer}.{part}.weight"] = (2048,)
    return layout


def block(name: str, width: int, source: int) -> Layout:
    layout = linear(f"{name}.attn1.to_q", width, width) | linear(f"{name}.attn1.to_out.0", width, width)
    layout |= linear(f"{name}.attn1.to_k", source, width) | linear(f"{name}.attn1.to_v", source, width)
    return layout | linear(f"{name}.ff.net.0.proj", width, 4 * width) | linear(f"{name}.ff.net.2", 4 * width, width)


def action_head() -> Layout:
    layout = norm("action_head.vlln", 2048)
    for index in range(4):
        name = f"action_head.vl_self_attention.transformer_blocks.{index}"
        layout |= block(name, 2048, 2048) | norm(f"{name}.norm1", 2048) | norm(f"{name}.norm3", 2048)
    for index in range(16):
        name = f"action_head.model.transformer_blocks.{index}"
        layout |= block(name, 1536, 1536 if index % 2 else 2048) | linear(f"{name}.norm1.linear", 1536, 3072)
    time = "action_head.model.timestep_encoder.timestep_embedder"
    layout |= linear(f"{time}.linear_1", 256, 1536) | linear(f"{time}.linear_2", 1536, 1536)
    layout |= linear("action_head.model.proj_out_1", 1536, 3072) | linear("action_head.model.proj_out_2", 1536, 1024)
    layout |= slots("action_head.state_encoder.layer1", 64, 1024) | slots(
        "action_head.state_encoder.layer2", 1024, 1536
    )
    layout |= slots("action_head.action_encoder.W1", 32, 1536) | slots("action_head.action_encoder.W2", 3072, 1536)
    layout |= slots("action_head.action_encoder.W3", 1536, 1536)
    layout |= slots("action_head.action_decoder.layer1", 1024, 1024)
    layout |= slots("action_head.action_decoder.layer2", 1024, 32)
    return layout | {
        "action_head.future_tokens.weight": (32, 1536),
        "action_head.position_embedding.weight": (1024, 1536),
    }


EMBEDDINGS = {
    "backbone.eagle_model.language_model.model.embed_tokens.weight": (151680, 2048),
    "backbone.eagle_model.language_model.model.norm.weight": (2048,),
}


def test_full_size_matches_the_release_key_by_key():
    """Every tensor of the release has its place with its shape, and no place stays empty."""
    release = vision() | language(range(12)) | EMBEDDINGS | action_head()
    with torch.device("meta"):
        ours = {name: tuple(value.shape) for name, value in Groot(groot_shape("full", FULL)).state_dict().items()}
    assert {isaac_names(key): shape for key, shape in release.items()} == ours
    assert {isaac_keys(name) for name in ours} == set(release)
    assert {lerobot_names(f"_groot_model.{key}") for key in release} == set(ours)
    newer = {key.replace("vision_model.vision_model.", "vision_model."): shape for key, shape in release.items()}
    assert newer.keys() != release.keys()
    assert {isaac_names(key): shape for key, shape in newer.items()} == ours


def test_what_the_policy_does_not_use_is_dropped():
    vision_model = "backbone.eagle_model.vision_model."
    dropped = [
        *language(range(12, 28)),
        "backbone.eagle_model.language_model.lm_head.weight",
        f"{vision_model}vision_model.head.probe",
        f"{vision_model}head.attention.in_proj_weight",
    ]
    assert {isaac_names(key) for key in dropped} == {None}


def test_there_and_back_is_bit_equal():
    state = small_groot(TINY._replace(stem="patch")).state_dict()
    for to, fro in ((isaac_keys, isaac_names), (lerobot_keys, lerobot_names)):
        file = {to(name): value for name, value in state.items()}
        assert len(file) == len(state)
        back = {fro(key): value for key, value in file.items()}
        assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize("lerobot", [False, True])
def test_an_embedding_stored_as_output_layer_is_found(tmp_path, lerobot):
    model, other = small_groot(TINY._replace(stem="patch")), Groot(TINY._replace(stem="patch"))
    to, fro, ties = (lerobot_keys, lerobot_names, LEROBOT_TIES) if lerobot else (isaac_keys, isaac_names, ISAAC_TIES)
    file = {to(name): value for name, value in model.state_dict().items()}
    (ours, theirs), *_ = ties.items()
    file[theirs] = file.pop(to(ours))
    save_file(file, tmp_path / "model.safetensors")
    load_weights(other, open_weights(tmp_path), fro, ties)
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())


def test_strange_names_are_refused():
    with pytest.raises(UserError, match=r"paligemma\.lm_head\.weight: no tensor of GR00T N1\.5; load"):
        isaac_names("paligemma.lm_head.weight")
    with pytest.raises(UserError, match=r"^lm_expert\.norm\.weight: GR00T N1\.5 has no such tensor"):
        isaac_keys("lm_expert.norm.weight")
