"""LeRobot's processors, as its releases since 0.4 keep them beside the weights: the steps from an observation to the
network and from the network to an action, with the policy's own statistics.

Each pipeline is a JSON file of steps; the numbers of a step lie in a safetensors file that it names. Layout and names
are those of LeRobot 0.4.4; relative actions are steps that 0.6 brought, and earlier releases refuse a file with them.
"""

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from pirl_core.policy.flow_policy import FlowPolicy

PRE, POST = "policy_preprocessor", "policy_postprocessor"
PALIGEMMA = "google/paligemma-3b-pt-224"
TOKENIZERS = {"pi0": PALIGEMMA, "pi05": PALIGEMMA, "smolvla": "HuggingFaceTB/SmolVLM2-500M-Video-Instruct"}
# The affine maps of any statistics, ours among them, are those of a mean and a standard deviation.
NORM_MAP = {"VISUAL": "IDENTITY", "STATE": "MEAN_STD", "ACTION": "MEAN_STD"}
DEVICE = ("device_processor", {"device": "cpu", "float_dtype": None})

Step = tuple[str, dict[str, Any]]


def processor_files(
    policy: "FlowPolicy", family: str, config: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    """JSON documents and tensors by file name. config: LeRobot's config.json of the policy."""
    statistics = {
        f"{feature}.{theirs}": torch.tensor(getattr(numbers, ours), dtype=torch.float32)
        for feature, numbers in (
            ("observation.state", policy.normalization.state),
            ("action", policy.normalization.action),
        )
        for theirs, ours in (("mean", "center"), ("std", "scale"))
    }
    documents: dict[str, Any] = {}
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, steps in ((PRE, _before(policy, family, config)), (POST, _after(policy, config))):
        entries: list[dict[str, Any]] = []
        for index, (kind, settings) in enumerate(steps):
            entries.append({"registry_name": kind, "config": settings})
            if "norm_map" in settings:
                file = f"{name}_step_{index}_{kind}.safetensors"
                entries[-1]["state_file"] = file
                tensors[file] = statistics
        documents[f"{name}.json"] = {"name": name, "steps": entries}
    return documents, tensors


def _before(policy: "FlowPolicy", family: str, config: dict[str, Any]) -> list[Step]:
    words = {
        "max_length": policy.backbone.shape.text_length,
        "task_key": "task",
        "padding_side": "right",
        "padding": "longest" if family == "smolvla" else "max_length",
        "truncation": True,
        "tokenizer_name": TOKENIZERS[family],
    }
    normalize = ("normalizer_processor", _normalization(config["input_features"] | config["output_features"]))
    start: list[Step] = [("rename_observations_processor", {"rename_map": {}}), ("to_batch_processor", {})]
    if policy.normalization.delta:
        names = [f"action{number:02d}" for number in range(len(policy.normalization.action.center))]
        absolute = names[policy.normalization.delta :]
        settings = {"enabled": True, "exclude_joints": absolute, "action_names": names}
        start.append(("relative_actions_processor", settings))
    if policy.prompt == "pi05_state":
        # Ours, as openpi's, names the state's own numbers; unless told, LeRobot's names their padding too.
        numbers = {"max_state_dim": len(policy.normalization.state.center)}
        prompt: Step = ("pi05_prepare_state_tokenizer_processor_step", numbers)
        return [*start, normalize, prompt, ("tokenizer_processor", words), DEVICE]
    line: Step = ("smolvla_new_line_processor" if family == "smolvla" else "pi0_new_line_processor", {})
    return [*start, line, ("tokenizer_processor", words), DEVICE, normalize]


def _after(policy: "FlowPolicy", config: dict[str, Any]) -> list[Step]:
    absolute: list[Step] = [("absolute_actions_processor", {"enabled": True})] if policy.normalization.delta else []
    return [("unnormalizer_processor", _normalization(config["output_features"])), *absolute, DEVICE]


def _normalization(features: dict[str, Any]) -> dict[str, Any]:
    # Scales are never zero, so nothing is added to them.
    return {"eps": 0.0, "features": features, "norm_map": NORM_MAP}
