"""Which published layout a policy can be exported to, and with which files: the one place that knows the families."""

from typing import TYPE_CHECKING, Any

from pirl_core.errors import UserError

if TYPE_CHECKING:
    from pirl_core.checkpoints.export import Layout
    from pirl_core.policy.flow_policy import FlowPolicy

TARGETS = ("openpi", "lerobot")
EPSILON = 1e-6


def layout_of(policy: "FlowPolicy", target: str) -> "Layout":
    """Raises UserError where the policy's family has no map to ``target``."""
    from pirl_core.checkpoints.export import Layout
    from pirl_core.checkpoints.processors import processor_files
    from pirl_core.policy.backbone import family_of
    from pirl_core.policy.layouts import pi0, smolvla
    from pirl_core.policy.pi0 import Pi0Shape

    shape = policy.backbone.shape
    family = family_of(shape)
    if target == "openpi" and isinstance(shape, Pi0Shape):
        return Layout(pi0.openpi_keys, {}, pi0.openpi_unused(shape), _openpi(policy))
    if target == "lerobot" and family != "groot":
        config = _lerobot(policy, family)
        documents, tensors = processor_files(policy, family, config)
        keys, unused = smolvla.lerobot_keys, {}
        if isinstance(shape, Pi0Shape):
            keys, unused = pi0.lerobot_keys, pi0.lerobot_unused(shape)
        return Layout(keys, {}, unused, {"config.json": config, **documents}, tensors)
    raise UserError(f"--to {target}: no map from {family} to this layout; its own policy folder can be pushed as it is")


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
        "paligemma_variant": "gemma_2b",
        "action_expert_variant": "gemma_300m",
        "precision": "bfloat16",
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
    }
