"""Which published layout a policy can be exported to, and with which files: the one place that knows the families.

LeRobot's present GR00T is N1.7, so N1.5 goes to Isaac's layout alone, without the metadata of a data set.

Sizes nano to L have no counterpart among the published models, and eyes of their own (``ConvStem``). They are written
under the same names, the stem beside them, and their shape stands in config.json as ``pirl_shape``: for readers that
build a network from it, such as ``checkpoints.pretrained.load_pretrained``. The projects have no tool for them, so what
else a policy folder holds goes along in ``pirl/``: with it ``checkpoints.exported.load_exported`` makes them act.
"""

import json
from typing import TYPE_CHECKING, Any

from pirl_core.checkpoints.relative import OURS
from pirl_core.errors import UserError

if TYPE_CHECKING:
    from pirl_core.checkpoints.export import Layout
    from pirl_core.policy.backbone import Shape
    from pirl_core.policy.families.groot.network import GrootShape
    from pirl_core.policy.flow_policy import FlowPolicy

TARGETS = ("openpi", "lerobot", "isaac")
EXPORTED = "pirl"
EPSILON = 1e-6


def layout_of(policy: "FlowPolicy", target: str) -> "Layout":
    """Raises UserError where the policy's family has no map to ``target``."""
    from pirl_core.checkpoints.export import Layout
    from pirl_core.checkpoints.processors import processor_files
    from pirl_core.policy.families.groot import layout as groot
    from pirl_core.policy.families.groot.network import GrootShape
    from pirl_core.policy.families.pi0 import layout as pi0
    from pirl_core.policy.families.pi0.network import Pi0Shape
    from pirl_core.policy.families.smolvla import layout as smolvla

    shape = policy.backbone.shape
    family = shape.family
    own = _own_documents(policy)
    if target == "openpi" and isinstance(shape, Pi0Shape):
        return Layout(pi0.openpi_keys, {}, pi0.openpi_unused(shape), _openpi(policy) | own)
    if target == "lerobot" and family != "groot":
        config = _lerobot(policy, family)
        # Processors name the published tokenizer, which has not the words of a model of our own size.
        documents, tensors = ({}, {}) if shape.stem == "conv" else processor_files(policy, family, config)
        keys, unused = smolvla.lerobot_keys, {}
        if isinstance(shape, Pi0Shape):
            keys, unused = pi0.lerobot_keys, pi0.lerobot_unused(shape)
        return Layout(keys, {}, unused, {"config.json": config, **documents, **own}, tensors)
    if target == "isaac" and isinstance(shape, GrootShape):
        return Layout(groot.isaac_keys, {}, {}, {"config.json": _isaac(policy, shape), **own})
    raise UserError(f"--to {target}: no map from {family} to this layout; its own policy folder can be pushed as it is")


def _own_documents(policy: "FlowPolicy") -> dict[str, Any]:
    """Of a model of our own size, all that its policy folder holds beside the weights."""
    if policy.backbone.shape.stem != "conv":
        return {}
    from pirl_core.policy.folder import documents

    content = documents(policy) | {"tokenizer.json": json.loads(policy.tokenizer.to_str())}
    return {f"{EXPORTED}/{name}": part for name, part in content.items()}


def norm_stats(policy: "FlowPolicy") -> dict[str, Any]:
    """openpi's ``norm_stats.json``. Mean and std, and the quantiles, are so chosen that either kind of normalisation
    there is the policy's own."""

    def numbers(center: list[float], scale: list[float]) -> dict[str, list[float]]:
        low = [c - s for c, s in zip(center, scale, strict=True)]
        high = [c + s - EPSILON for c, s in zip(center, scale, strict=True)]
        return {"mean": center, "std": [s - EPSILON for s in scale], "q01": low, "q99": high}

    kinds = policy.normalization
    return {"norm_stats": {"state": numbers(*kinds.state), "actions": numbers(*kinds.action)}}


def _openpi(policy: "FlowPolicy") -> dict[str, Any]:
    shape = policy.backbone.shape
    config = {
        "action_dim": shape.action_dim,
        "action_horizon": shape.horizon,
        "precision": "bfloat16",
        **(_own_shape(shape) or {"paligemma_variant": "gemma_2b", "action_expert_variant": "gemma_300m"}),
        OURS: policy.normalization.delta,
    }
    return {"config.json": config, "assets/pirl/norm_stats.json": norm_stats(policy)}


def _lerobot(policy: "FlowPolicy", family: str) -> dict[str, Any]:
    shape = policy.backbone.shape
    image = {"type": "VISUAL", "shape": [3, shape.image_size, shape.image_size]}
    return {
        "type": family,
        "n_obs_steps": 1,
        "chunk_size": shape.horizon,
        "n_action_steps": policy.replan,
        "num_steps" if family == "smolvla" else "num_inference_steps": policy.denoise_steps,
        "max_state_dim": shape.state_dim,
        "max_action_dim": shape.action_dim,
        "tokenizer_max_length": shape.text_length,
        "input_features": {
            **{f"observation.images.camera{number}": image for number in range(shape.cameras)},
            "observation.state": {"type": "STATE", "shape": [len(policy.state_center)]},
        },
        "output_features": {"action": {"type": "ACTION", "shape": [len(policy.action_center)]}},
        # Where there are no processors to say it.
        **(_own_shape(shape) and {**_own_shape(shape), OURS: policy.normalization.delta}),
    }


def _isaac(policy: "FlowPolicy", shape: "GrootShape") -> dict[str, Any]:
    head = {
        "action_dim": shape.action_dim,
        "action_horizon": shape.horizon,
        "add_pos_embed": True,
        "backbone_embedding_dim": shape.vlm_width,
        "diffusion_model_cfg": {
            "attention_head_dim": shape.dit_head_dim,
            "cross_attention_dim": shape.vlm_width,
            "dropout": shape.dropout,
            "final_dropout": True,
            "interleave_self_attention": True,
            "norm_type": "ada_norm",
            "num_attention_heads": shape.dit_heads,
            "num_layers": shape.dit_layers,
            "output_dim": shape.expert_width,
            "positional_embeddings": None,
        },
        "hidden_size": shape.expert_width,
        "input_embedding_dim": shape.dit_heads * shape.dit_head_dim,
        "max_action_dim": shape.action_dim,
        "max_num_embodiments": shape.embodiments,
        "max_seq_len": shape.positions,
        "max_state_dim": shape.state_dim,
        "num_inference_timesteps": policy.denoise_steps,
        "num_target_vision_tokens": shape.future_tokens,
        "use_vlln": True,
        "vl_self_attention_cfg": {
            "attention_head_dim": shape.vlm_width // shape.vl_heads,
            "dropout": shape.dropout,
            "final_dropout": True,
            "num_attention_heads": shape.vl_heads,
            "num_layers": shape.vl_layers,
            "positional_embeddings": None,
        },
    }
    return {
        "architectures": ["GR00T_N1_5"],
        "model_type": "gr00t_n1_5",
        "action_dim": shape.action_dim,
        "action_horizon": shape.horizon,
        "hidden_size": shape.vlm_width,
        "action_head_cfg": head,
        "backbone_cfg": {"select_layer": shape.vlm_layers, "project_to_dim": None, "reproject_vision": False},
        **_own_shape(shape),
        OURS: policy.normalization.delta,
    }


def _own_shape(shape: "Shape") -> dict[str, Any]:
    """The shape of a model whose size is our own; nothing for a published one."""
    return {"pirl_shape": shape._asdict()} if shape.stem == "conv" else {}
