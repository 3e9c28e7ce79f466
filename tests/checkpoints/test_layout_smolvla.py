"""Names of lerobot/smolvla_base: the complete inventory of its tensors, both ways."""

import pytest
import torch

from pirl_core.errors import UserError
from pirl_core.policy.context import DataSizes
from pirl_core.policy.families.smolvla.layout import lerobot_keys, lerobot_names
from pirl_core.policy.families.smolvla.network import SmolVla, SmolVlaShape, smolvla_shape

HEAD = "model.vlm_with_expert.vlm.lm_head.weight"
# What the revision before LeRobot's processors held: one set per robot it was trained on.
STATISTICS = [
    "normalize_inputs.so100-blue_buffer_observation_state.mean",
    "normalize_inputs.buffer_observation_state.std",
    "normalize_targets.so100_buffer_action.mean",
    "unnormalize_outputs.buffer_action.std",
]


def inventory(shape):
    """The checkpoint's keys and sizes, written down from its published list of tensors."""
    w, mlp, e, emlp = shape.vlm_width, shape.vlm_mlp, shape.expert_width, shape.expert_mlp
    query, kv, v = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim, shape.vision_width
    vlm, expert = "model.vlm_with_expert.vlm.model", "model.vlm_with_expert.lm_expert"
    vision, patches = f"{vlm}.vision_model", (shape.image_size // shape.patch) ** 2
    sizes = {
        HEAD: (shape.vocabulary, w),
        f"{vlm}.connector.modality_projection.proj.weight": (w, v * shape.shuffle**2),
        f"{vlm}.text_model.embed_tokens.weight": (shape.vocabulary, w),
        f"{vlm}.text_model.norm.weight": (w,),
        f"{expert}.norm.weight": (e,),
        f"{vision}.embeddings.patch_embedding.weight": (v, 3, shape.patch, shape.patch),
        f"{vision}.embeddings.patch_embedding.bias": (v,),
        f"{vision}.embeddings.position_embedding.weight": (patches, v),
    }
    linear = {"state_proj": (w, shape.state_dim), "action_in_proj": (e, shape.action_dim)}
    linear |= {
        "action_out_proj": (shape.action_dim, e),
        "action_time_mlp_in": (e, 2 * e),
        "action_time_mlp_out": (e, e),
    }
    linear = {f"model.{name}": size for name, size in linear.items()}
    norms = {f"{vision}.post_layernorm": v}
    for i in range(shape.vision_layers):
        layer = f"{vision}.encoder.layers.{i}"
        linear |= {f"{layer}.self_attn.{name}": (v, v) for name in ("q_proj", "k_proj", "v_proj", "out_proj")}
        linear |= {f"{layer}.mlp.fc1": (shape.vision_mlp, v), f"{layer}.mlp.fc2": (v, shape.vision_mlp)}
        norms |= {f"{layer}.layer_norm1": v, f"{layer}.layer_norm2": v}
    for name, size in linear.items():
        sizes |= {f"{name}.weight": size, f"{name}.bias": size[:1]}
    for name, width in norms.items():
        sizes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for i in range(shape.vlm_layers):
        for layer, width, inner in ((f"{vlm}.text_model.layers.{i}", w, mlp), (f"{expert}.layers.{i}", e, emlp)):
            source = kv if layer.startswith(expert) and i % 2 else width
            sizes |= {
                f"{layer}.input_layernorm.weight": (width,),
                f"{layer}.post_attention_layernorm.weight": (width,),
                f"{layer}.self_attn.q_proj.weight": (query, width),
                f"{layer}.self_attn.k_proj.weight": (kv, source),
                f"{layer}.self_attn.v_proj.weight": (kv, source),
                f"{layer}.self_attn.o_proj.weight": (width, query),
                f"{layer}.mlp.gate_proj.weight": (inner, width),
                f"{layer}.mlp.up_proj.weight": (inner, width),
                f"{layer}.mlp.down_proj.weight": (width, inner),
            }
    return sizes


def test_full_size_is_the_inventory():
    shape = smolvla_shape("full", DataSizes(512, 3, 49280, 48, 32, 32, 50))
    with torch.device("meta"):
        network = SmolVla(shape)
    published = inventory(shape)
    assert len(published) == 500
    assert sum(torch.Size(size).numel() for size in published.values()) == 450_046_176
    ours = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {lerobot_names(key): size for key, size in published.items() if key != HEAD} == ours
    assert {lerobot_keys(name): size for name, size in ours.items()} == {
        k: s for k, s in published.items() if k != HEAD
    }


def test_weights_come_and_go_bit_equal():
    shape = SmolVlaShape(
        image_size=64, cameras=1, vocabulary=30, text_length=6, state_dim=4, action_dim=3, horizon=5, vlm_width=24,
        vlm_layers=12, vlm_mlp=32, vision_width=12, vision_layers=11, vision_heads=2, vision_mlp=16, patch=16,
        shuffle=2, expert_width=18, expert_mlp=20, heads=6, kv_heads=2, head_dim=4, stem="patch",
    )  # fmt: skip
    torch.manual_seed(0)
    checkpoint = {key: torch.randn(size) for key, size in inventory(shape).items()}
    checkpoint |= {key: torch.randn(4) for key in STATISTICS}
    names = {key: lerobot_names(key) for key in checkpoint}
    assert {key for key, name in names.items() if name is None} == {HEAD, *STATISTICS}
    network = SmolVla(shape)
    network.load_state_dict({name: checkpoint[key] for key, name in names.items() if name is not None}, strict=True)
    back = {lerobot_keys(name): value for name, value in network.state_dict().items()}
    assert back.keys() == checkpoint.keys() - {HEAD, *STATISTICS}
    assert all(torch.equal(value, checkpoint[key]) for key, value in back.items())


@pytest.mark.parametrize(
    "key", ["model.action_expert.weight", "model.paligemma_with_expert.x", "lm_expert.norm.weight"]
)
def test_strange_keys_are_told(key):
    with pytest.raises(UserError, match=f"^{key}: no tensor of SmolVLA; load .*smolvla_base"):
        lerobot_names(key)


def test_a_conv_stem_has_its_own_place():
    with torch.device("meta"):
        network = SmolVla(smolvla_shape("S", DataSizes(64, 1, 30, 6, 4, 3, 5)))
    stem = [name for name in network.state_dict() if name.startswith("stem.")]
    assert stem and [lerobot_names(lerobot_keys(name)) for name in stem] == stem
    assert not {lerobot_keys(name) for name in stem} & inventory(network.shape).keys()
    with pytest.raises(UserError, match=r"^pi0\.x: SmolVLA has no such tensor"):
        lerobot_keys("pi0.x")
