"""A policy folder is complete in itself: model.safetensors, config.json, normalization.json and tokenizer.json."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pirl_core.errors import UserError
from pirl_core.policy.flow_policy import FlowPolicy, Statistics
from pirl_core.policy.pi0 import Pi0Shape
from pirl_core.policy.tokenizer import load_tokenizer

FORMAT = 1


def save_policy(policy: FlowPolicy, folder: Path) -> None:
    """Write the velocity model and all that it needs; critic and noise net are left behind. ``folder`` must exist."""
    state = {name: value.contiguous() for name, value in policy.backbone.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {
        "format": FORMAT,
        "backbone": "tiny_pi0",
        "replan": policy.replan,
        "denoise_steps": policy.denoise_steps,
        "shape": policy.backbone.shape._asdict(),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "normalization.json").write_text(json.dumps(policy.statistics._asdict(), indent=2) + "\n")
    policy.tokenizer.save(str(folder / "tokenizer.json"))


def load_policy(folder: Path) -> FlowPolicy:
    """Raises UserError when a file is missing, damaged, or does not fit the others."""
    config = _read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise UserError(f"{folder}/config.json: format = {config.get('format')!r}, this version reads {FORMAT}")
    statistics = _read_json(folder / "normalization.json")
    try:
        shape = Pi0Shape(**config["shape"])
        policy = FlowPolicy(
            shape,
            load_tokenizer(folder / "tokenizer.json"),
            Statistics(**statistics),
            int(config["replan"]),
            int(config["denoise_steps"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder}: config.json or normalization.json is incomplete ({error}); rerun its stage"
        ) from None
    sizes = {len(policy.state_mean), len(policy.state_std)}, {len(policy.action_mean), len(policy.action_std)}
    if sizes != ({shape.state_dim}, {shape.action_dim}):
        raise UserError(f"{folder}/normalization.json: {sizes} numbers do not fit config.json; rerun its stage")
    _load_weights(policy, folder / "model.safetensors")
    return policy.eval()


def _load_weights(policy: FlowPolicy, path: Path) -> None:
    try:
        weights: dict[str, torch.Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not readable as safetensors ({error}); rerun the stage that wrote it") from None
    expected = policy.backbone.state_dict()
    missing, unexpected = sorted(set(expected) - set(weights)), sorted(set(weights) - set(expected))
    if missing or unexpected:
        first = f"misses {missing[0]}" if missing else f"has the unknown {unexpected[0]}"
        raise UserError(
            f"{path}: {first} ({len(missing)} missing, {len(unexpected)} unknown); it fits another config.json"
        )
    for name, value in expected.items():
        if weights[name].shape != value.shape:
            raise UserError(
                f"{path}: {name} has shape {tuple(weights[name].shape)}, config.json asks for {tuple(value.shape)}"
            )
        if not torch.isfinite(weights[name]).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite; rerun the stage that wrote it")
    policy.backbone.load_state_dict(weights)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); rerun the stage that writes this folder") from None
    except ValueError as error:
        raise UserError(f"{path}: no valid JSON ({error}); rerun the stage that writes this folder") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, expected an object; rerun its stage")
    return content
