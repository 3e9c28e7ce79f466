"""A policy folder is complete in itself: model.safetensors, and as JSON config, normalization, tokenizer, interface."""

from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import torch
from accelerate import init_empty_weights
from pydantic import Field, create_model
from torch import Tensor, nn

from pirl_core.errors import UserError, first_line
from pirl_core.facts import facts_in
from pirl_core.files import write_json, write_tensors, write_text
from pirl_core.params.sections import Env, Precision
from pirl_core.policy.backbone import Backbone, Shape, new_backbone, shape_class
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.interface import FILE as INTERFACE
from pirl_core.policy.interface import read_interface
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import Prompt, check_words, load_tokenizer
from pirl_core.readers.tensors import read_tensors
from pirl_core.readers.text import read_json
from pirl_core.readers.typed import M, Strict, check

FORMAT = 3
NAME = r"^\w+(\.\w+)*$"
RERUN = "rerun the stage that writes this folder"
Size = Annotated[int, Field(ge=1, le=1_000_000)]
# As the network has them, in fp32: what is beyond is infinite there, and a smaller scale is none.
FP32 = torch.finfo(torch.float32)
Number = Annotated[float, Field(ge=-FP32.max, le=FP32.max)]
Scale = Annotated[float, Field(ge=FP32.tiny, le=FP32.max)]


class _Config(Strict):
    format: Literal[3]
    backbone: Annotated[str, Field(pattern=NAME)]
    prompt: Prompt
    replan: Size
    denoise_steps: Annotated[int, Field(ge=1, le=1000)]
    precision: Precision
    frozen_vlm: bool
    shape: dict[str, bool | int | float | str]


class _Affine(Strict):
    center: list[Number]
    scale: list[Scale]


class _Normalization(Strict):
    state: _Affine
    action: _Affine
    delta: Annotated[int, Field(ge=0)]
    squash: bool = False


def save_policy(policy: FlowPolicy, folder: Path) -> None:
    """Write the velocity model, in fp32, and all that it needs; critic and noise net are left behind.

    ``folder`` must exist. Raises UserError, before anything is written, for a normalisation that ``load_policy`` would
    refuse.
    """
    content = documents(policy)
    place = folder / "normalization.json"
    numbers = check(_Normalization, content["normalization.json"], str(place), RERUN)
    _normalization(numbers, policy.backbone.shape, place)
    # Files are replaced, never written into: a checkpoint may hold links to the earlier ones.
    # Rounded weights are not written back: the frozen ones are the source's, bit for bit.
    state = policy.backbone.state_dict() | policy.originals
    state = {name: value.float().contiguous() for name, value in state.items()}
    write_tensors(folder / "model.safetensors", state)
    for name, part in content.items():
        write_json(folder / name, part)
    write_text(folder / "tokenizer.json", policy.tokenizer.to_str(pretty=True))


def documents(policy: FlowPolicy) -> dict[str, Any]:
    """What a policy folder holds beside weights and tokenizer, by the names of the files.

    ``precision`` and whether the VLM was frozen say in which arithmetic the policy was trained and validated.
    """
    kinds = policy.normalization
    config = {
        "format": FORMAT,
        "backbone": policy.backbone.shape.family,
        "prompt": policy.prompt,
        "replan": policy.replan,
        "denoise_steps": policy.denoise_steps,
        "precision": policy.precision,
        "frozen_vlm": not any(p.requires_grad for module in policy.backbone.vlm_modules for p in module.parameters()),
        "shape": policy.backbone.shape._asdict(),
    }
    numbers = {"state": kinds.state._asdict(), "action": kinds.action._asdict(), "delta": kinds.delta}
    numbers |= {"squash": True} if kinds.squash else {}
    return {
        "config.json": config,
        "normalization.json": numbers,
        **({} if policy.interface is None else {INTERFACE: policy.interface._asdict()}),
    }


def load_policy(folder: Path) -> FlowPolicy:
    """The weights are in fp32, as in the file; ``round_weights`` with the policy's own ``precision`` makes them
    those of its training. Raises UserError when a file is missing, damaged, or does not fit the others."""
    policy = without_weights(folder)
    # The file's own memory becomes the network's: nothing is allocated twice.
    policy.backbone.load_state_dict(read_weights(policy.backbone, folder / "model.safetensors"), assign=True)
    return policy


def without_weights(folder: Path) -> FlowPolicy:
    """As ``load_policy``, with the parameters on torch's meta device still."""
    config = _read(_Config, folder / "config.json")
    numbers = _read(_Normalization, folder / "normalization.json")
    backbone = _backbone(config, folder / "config.json")
    shape = backbone.shape
    if config.replan > shape.horizon:
        raise UserError(f"{folder}/config.json: replan = {config.replan} exceeds horizon {shape.horizon}; {RERUN}")
    normalization = _normalization(numbers, shape, folder / "normalization.json")
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    check_words(tokenizer, config.prompt, shape, folder / "tokenizer.json")
    policy = FlowPolicy(backbone, tokenizer, config.prompt, normalization, config.replan, config.denoise_steps)
    policy.precision = config.precision
    if (folder / INTERFACE).exists():
        sizes = shape.cameras, len(normalization.state.center), len(normalization.action.center)
        policy.interface = read_interface(folder / INTERFACE, sizes, RERUN)
    if config.frozen_vlm:
        policy.backbone.freeze_vlm()
    return policy.eval()


def _read(model: type[M], path: Path) -> M:
    return check(model, read_json(path, RERUN), str(path), RERUN)


def _backbone(config: _Config, path: Path) -> Backbone:
    """The network without its weights (they are on torch's meta device): sizes are judged before memory is taken.

    Raises UserError where a size is missing, unknown, or makes no network.
    """
    try:
        kind = shape_class(config.backbone)
    except LookupError as error:
        raise UserError(f"{path}: backbone: {error}; {RERUN}") from None
    whole = Annotated[int, Field(ge=0, le=1_000_000)]
    ranges: Any = {name: (whole if field is int else field, ...) for name, field in get_type_hints(kind).items()}
    checked = check(create_model("shape", __base__=Strict, **ranges), config.shape, f"{path}: shape", RERUN)
    try:
        with init_empty_weights():
            return new_backbone(kind(**checked.model_dump()))
    except (UserError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"{path}: these sizes make no network ({first_line(error)}); {RERUN}") from None


def _normalization(numbers: _Normalization, shape: Shape, path: Path) -> Normalization:
    for name, part, most in (("state", numbers.state, shape.state_dim), ("action", numbers.action, shape.action_dim)):
        if len(part.center) != len(part.scale):
            raise UserError(f"{path}: {name} has {len(part.center)} centers and {len(part.scale)} scales; {RERUN}")
        if not 0 < len(part.center) <= most:
            raise UserError(f"{path}: {name} has {len(part.center)} numbers, config.json allows 1 to {most}; {RERUN}")
    if numbers.delta > min(len(numbers.state.center), len(numbers.action.center)):
        raise UserError(f"{path}: delta = {numbers.delta}: more than the state or the action has numbers; {RERUN}")
    state, action = (Affine(part.center, part.scale) for part in (numbers.state, numbers.action))
    return Normalization(state, action, numbers.delta, numbers.squash)


def require_fit(policy: FlowPolicy, env: Env, folder: Path) -> None:
    """Raises UserError where the policy was made for other cameras, images, states or actions than ``env`` has."""
    shape, facts = policy.backbone.shape, facts_in(env)
    pairs = {
        "env.cameras": (shape.cameras, len(env.cameras)),
        "env.image_size": (shape.image_size, env.image_size if env.cameras else shape.image_size),
        f"state numbers (env.object_state = {env.object_state})": (
            len(policy.state_center),
            facts.state_dim(env.object_state),
        ),
        "action numbers": (len(policy.action_center), len(facts.action)),
    }
    for name, (made_for, given) in pairs.items():
        if made_for != given:
            raise UserError(f"{folder}: made for {made_for} as {name}, but it is {given} now; rerun stage sft")


def read_weights(module: nn.Module, path: Path) -> dict[str, Tensor]:
    """The state of ``module``, which lies at ``path``. Raises UserError where it is not all of it, finite and fp32."""
    weights = read_tensors(path, RERUN)
    expected = module.state_dict()
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
        if weights[name].dtype != torch.float32:
            raise UserError(f"{path}: {name} is {weights[name].dtype}, not torch.float32; {RERUN}")
        if not torch.isfinite(weights[name]).all():
            raise UserError(f"{path}: {name} holds numbers that are not finite; {RERUN}")
    return weights
