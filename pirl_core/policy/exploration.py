"""How a policy explored in RL, in its folder: exploration.json, and the nets of a learned noise in its .safetensors.

Evaluation reads them, so that it depends on no parameter of ``rl``. Who only acts does without.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field
from torch import nn

from pirl_core.errors import UserError
from pirl_core.files import write_json, write_tensors
from pirl_core.flow.chain import Noise
from pirl_core.flow.noise import learns_std
from pirl_core.params.sections.rl import known_rule
from pirl_core.policy.backbone import Shape, new_noise_net
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import RERUN, read_weights
from pirl_core.readers.text import read_json
from pirl_core.readers.typed import Strict, check

Std = Annotated[float, Field(ge=0, le=1e9)]


class Exploration(NamedTuple):
    """Noise rule with its strength, decision process, and the noise net where the rule learns its std."""

    noise: Noise
    mdp: str
    net: nn.Module | None


class _Exploration(Strict):
    rule: Annotated[str, AfterValidator(known_rule)]
    level: Annotated[float, Field(ge=0, le=2)]
    min_std: Std
    max_std: Std
    bound: Annotated[float, Field(gt=0, le=1e9)] | None = None
    mdp: Literal["one_layer", "two_layer", "hybrid"]


def save_exploration(policy: FlowPolicy, noise: Noise, mdp: str, folder: Path) -> None:
    """Into the policy's ``folder``. The noise net goes along as it is, and as it was before RL."""
    told = {name: value for name, value in noise._asdict().items() if value is not None}
    write_json(folder / "exploration.json", {**told, "mdp": mdp})
    if policy.noise_net is not None:
        nets = {"before": policy.noise_net_before, "after": policy.noise_net.state_dict()}
        named = {f"{when}.{name}": value for when, net in nets.items() for name, value in net.items()}
        write_tensors(folder / "exploration.safetensors", {key: value.contiguous() for key, value in named.items()})


def load_exploration(folder: Path, shape: Shape, when: Literal["before", "after"]) -> Exploration:
    """when: with the noise net before or after RL. shape: of the policy that explores.

    Raises UserError for files that are missing, damaged, or do not fit.
    """
    path = folder / "exploration.json"
    found = check(_Exploration, read_json(path, RERUN), str(path), RERUN)
    noise = Noise(found.rule, found.level, found.min_std, found.max_std, found.bound)
    if not learns_std(noise.rule):
        return Exploration(noise, found.mdp, None)
    if not 0 < noise.min_std < noise.max_std:
        raise UserError(f"{path}: min_std = {noise.min_std} must be above 0 and below max_std {noise.max_std}; {RERUN}")
    nets = {name: new_noise_net(shape) for name in ("before", "after")}
    both = nn.ModuleDict(nets)
    both.load_state_dict(read_weights(both, folder / "exploration.safetensors"))
    return Exploration(noise, found.mdp, nets[when])
