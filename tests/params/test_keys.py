"""No key without effect: changing any key of params.yaml changes something that its stage writes.

Keys and choices come from the models themselves, so a new key without a row here fails.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args, get_origin

import pytest
import torch
from accelerate.state import AcceleratorState
from pydantic import ValidationError

from pirl_core.data import curate
from pirl_core.envs.vector import slots as vector
from pirl_core.named import FAMILIES, RULES, known
from pirl_core.params import sections as params
from pirl_core.report.papers.beside import LABELS
from tests.params import probes, risk_probes
from tests.params.probes import demonstrate_here
from tests.params.walk import Walk
from tests.worlds import NUMBERS_ALONE

BASE, SEE = probes.BASE | risk_probes.BASE, probes.SEE | risk_probes.SEE
pytestmark = pytest.mark.filterwarnings("ignore:Constant")


class Change(NamedTuple):
    """Other values of a key (all choices that there are, if empty), and what it needs to matter."""

    others: Sequence[Any] = ()
    given: Mapping[str, Any] = MappingProxyType({})


LEARNED = {"noise_rule": "learned", "mdp": "one_layer"}
FULL = {"size": "full", "tokenizer": "published", "horizon": 4}
CHANGES: dict[str, dict[str, Change]] = {
    "Env": {
        "tasks": Change([["drawer-close-v3"], ["reach-v3", "drawer-close-v3"]]),
        "shift": Change(["visual", "position"]),
        "episode_steps": Change([5]),
        "cameras": Change([["corner3"], ["gripperPOV"], ["corner2", "corner3"], ["corner3", "corner2"]]),
        "image_size": Change([48]),
        "fast_render": Change([False]),
        "object_state": Change([True]),
    },
    "Curate": {
        "dataset": Change(["recorded"]),
        "dataset_revision": Change(["main"], {"dataset": "recorded"}),
        "columns": Change([{"action": "observation.state"}], {"dataset": "recorded"}),
        "seed": Change([1]),
        "episodes_per_task": Change([3]),
        "still_frames": Change([2]),
        "action_noise": Change([0.0]),
        "max_attempts_per_episode": Change([3]),
        "keep_per_task": Change([1]),
        "keep_episodes": Change([[1]]),
        "real": Change([BASE["Real"]]),
    },
    "Real": {"shift": Change(["position", "real"]), "episodes_per_task": Change([2])},
    "Policy": {
        "backbone": Change(),
        "size": Change(["tiny"]),
        "pretrained": Change(["published"], FULL),
        "revision": Change(["main"], FULL | {"pretrained": "published"}),
        "tokenizer": Change(["other"], FULL | {"pretrained": "published"}),
        "state_in_prompt": Change([True]),
        "normalization": Change(),
        "normalization_from": Change(given=FULL | {"pretrained": "published"}),
        "delta_actions": Change([2]),
        "squash": Change([True], {"normalization": "min_max"}),
        "horizon": Change([5]),
        "replan": Change([3]),
        "denoise_steps": Change([3]),
    },
    "Sft": {
        "steps": Change([4]),
        "batch_size": Change([5]),
        "sim_share": Change([0.0, 0.5]),
        "micro_batch_size": Change([3]),
        "lr": Change([2e-3]),
        "warmup_steps": Change([0, 2]),
        "final_lr_fraction": Change([0.5]),
        "weight_decay": Change([0.0]),
        "max_grad_norm": Change([0.01]),
        "tau_alpha": Change([3.0]),
        "tau_beta": Change([3.0]),
        "image_shift": Change([2]),
        "image_crop": Change([0.3]),
        "image_rotation": Change([30.0]),
        "image_brightness": Change([0.5]),
        "image_contrast": Change([0.5]),
        "image_saturation": Change([0.5]),
        "image_hue": Change([0.5]),
        "precision": Change(),
        "activation_checkpointing": Change([True]),
        "compile": Change([True]),
        "ema_decay": Change([0.5, 0.9]),
        "log_every": Change([2]),
    },
    "Rl": {
        "algorithm": Change(given={"group_size": 2, "normalize_advantages": False, "mdp": "one_layer"}),
        "noise_rule": Change(),
        "noise_level": Change([0.6]),
        "noise_schedule": Change(given={"iterations": 3}),
        "noise_level_final": Change([0.2], {"noise_schedule": "linear"}),
        "noise_min_std": Change([0.05], LEARNED),
        "noise_max_std": Change([0.2], LEARNED),
        "mdp": Change(),
        "hybrid_draw": Change(),
        "logprob_reduction": Change(given=LEARNED),
        "iterations": Change([3]),
        "num_envs": Change([3]),
        "env_groups": Change([2]),
        "episodes_per_iteration": Change([10]),
        "group_size": Change([2]),
        "gamma": Change([0.5]),
        "gae_lambda": Change([0.5]),
        "bootstrap_at_time_limit": Change([False]),
        "normalize_advantages": Change([False]),
        "reward_scale": Change([True]),
        "chain_bound": Change([0.5]),
        "update_epochs": Change([3]),
        "minibatch_size": Change([16]),
        "micro_batch_size": Change([3]),
        "context_device_gib": Change([0.0, 2e-6]),
        "context_host_gib": Change([0.0, 2e-6], {"context_device_gib": 0.0}),
        "actor_lr": Change([1e-3]),
        "critic_lr": Change([1e-3]),
        "lr_schedule": Change(),
        "final_lr_fraction": Change([0.5], {"lr_schedule": "cosine"}),
        "weight_decay": Change([0.5]),
        "clip_ratio": Change([0.01]),
        "value_clip": Change([0.01, None]),
        "huber_delta": Change([0.01]),
        "value_coef": Change([0.1]),
        "entropy_coef": Change([0.1], LEARNED),
        "w2_coef": Change([0.1, 0.5]),
        "sft_coef": Change([0.1, 0.5]),
        "sft_batch_size": Change([5], {"sft_coef": 0.5}),
        "max_grad_norm": Change([0.01]),
        "target_kl": Change([1e-9]),
        "critic": Change(),
        "critic_layers": Change(),
        "critic_warmup_iterations": Change([1]),
        "precision": Change(),
        "activation_checkpointing": Change([True]),
        "compile": Change([True]),
        "dropout": Change([True]),
        "lora_rank": Change([1, 2]),
        "lora_alpha": Change([1], {"lora_rank": 2}),
        "lora_targets": Change([["k_proj"], ["q_proj", "v_proj", "k_proj"]], {"lora_rank": 2}),
        "validate_every": Change([2]),
        "validation_episodes_per_task": Change([2]),
        "keep": Change(),
        "watch": Change([{"ood_x": BASE["Split"] | {"shift": "visual"}}]),
        "record": Change(),
    },
    "Sac": {
        "decisions_per_iteration": Change([30]), "replay_size": Change([40]), "random_decisions": Change([8]),
        "learning_starts": Change([16]),
        "updates_per_decision": Change([2]), "batch_size": Change([9]), "target_rate": Change([0.2, None]),
        "renorm_warmup": Change([2], {"target_rate": None}), "actor_every": Change([1]), "critic_width": Change([9]),
        "critic_layers": Change([2]), "temperature": Change([0.3]), "temperature_lr": Change([0.0]),
        "target_entropy": Change([0.0]), "proximal_coef": Change([0.5]),
    },
    "Evaluate": {
        "seed": Change([1]),
        "num_envs": Change([3]),
        "env_groups": Change([2]),
        "splits": Change([{**BASE["Evaluate"]["splits"], "ood_x": BASE["Split"]}]),
        "exploring_episodes_per_task": Change([1, 2]),
        "videos_per_outcome": Change([0, 2]),
        "record": Change(),
    },
    "Split": {
        "tasks": Change([["drawer-close-v3"]]), "shift": Change(["visual", "position"]),
        "episodes_per_task": Change([5]),
    },
    "Report": {"title": Change(["Another"])},
    "Supervision": {
        "checkpoint_minutes": Change([60.0]),
        "trackers": Change([["trackio"]]),  # asked for where it is not installed
        "validation_videos": Change([2]),
        "warn_kl": Change([10.0]),
        "warn_first_ratio_error": Change([0.9]),
        "warn_success_drop": Change([0.9]),
        "stop_kl": Change([0.5]),
        "stop_success_drop": Change([0.1]),
        "max_skipped_updates": Change([3]),
    },
    "Experiment": {
        "model": Change(["large π0"]),
        "paper_model": Change(list(LABELS), {"paper_model": None}),
        "env": Change([{"image_size": 64}]),
        "curate": Change([{"seed": 7}]),
        "policy": Change([{"denoise_steps": 7}]),
        "sft": Change([{"steps": 7}]),
        "rl": Change([{"iterations": 7}]),
        "evaluate": Change([{"seed": 7}]),
    },
    "Params": {
        "scale": Change(["laptop", "my_own"]),
        "seeds": Change([[0], [1, 0]]),
        "policies": Change([["sft"], ["flow_sde", "sft"]]),
        "methods": Change([BASE["Params"]["methods"] | {"flow_sde": {"mdp": "two_layer"}}]),
        "experiments": Change([{"other": BASE["Experiment"]}]),
    },
    "Risk": {
        "experiments": Change([{"other": BASE["World"]}]),
        "methods": Change([{"other": BASE["Bonus"]}]),
        "gammas": Change([[-1.0], [1.0, -1.0]]),
        "episodes": Change([31]),
        "delta": Change([0.01]),
        "log_every": Change([7]),
    },
    "World": {
        "horizon": Change([2]),
        "initial": Change([[1, 0]]),
        "transition": Change([[[[1, 1], [1, 4]], [[1, 1], [1, 4]]]]),
        "emission": Change([[[1, 0], [0, 1]], [[7, 3, 1], [1, 9, 1]]]),
        "reward": Change([[[0, 1], [0, 1]]]),
        "paper": Change(["pomdp", "mdp"]),
    },
    "Bonus": {
        "bonus_scale": Change([0.0, 0.03]),
        "bonus_in_q": Change([True]),
    },
}  # fmt: skip


def models(model: type[params.Section]) -> Iterator[type[params.Section]]:
    """The model and every section that it holds, at any depth."""
    yield model
    waiting: list[Any] = [field.annotation for field in model.model_fields.values()]
    while waiting:
        kind = waiting.pop()
        waiting += get_args(kind)
        if isinstance(kind, type) and issubclass(kind, params.Section):
            yield from models(kind)


MODELS = {model.__name__: model for model in models(params.Params)}


NAMED = {"noise_rule": (RULES,), "backbone": (FAMILIES, "family")}


def choices(model: type[params.Section], key: str) -> list[Any]:
    """The values that a Literal key lists, or that are found by name; [] for any other key."""
    if key in NAMED:
        return [name for name in known(*NAMED[key]) if name not in NUMBERS_ALONE]  # without the cameras
    kind = model.model_fields[key].annotation
    return list(get_args(kind)) if get_origin(kind) is Literal else []


SINGLE = [(name, key) for name, model in MODELS.items() for key in model.model_fields if len(choices(model, key)) == 1]
ELSEWHERE = [("Env", name) for name in ("benchmark", "keys", "frame_stack", "sim_backend")]
ELSEWHERE += [("Curate", "expert_return"), ("Curate", "expert_steps")]
"""Other simulators than MetaWorld, and a GPU, may not be there: they have tests of their own."""
KEYS = [
    (name, key)
    for name, model in MODELS.items()
    for key, field in model.model_fields.items()
    if (name, key) not in [*SINGLE, *ELSEWHERE] and field.annotation not in MODELS.values()
]
memory: dict[str, Any] = {}


@pytest.fixture
def see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """(section, values, how often seen before) → what the section's stage does with these values."""
    monkeypatch.setattr(curate, "demonstrations", demonstrate_here)
    torch.set_num_threads(1)

    def look(section: str, values: dict[str, Any], repeat: int = 0) -> Any:
        identity = json.dumps([section, values, repeat])
        if identity not in memory:
            AcceleratorState._reset_state(reset_partial_state=True)  # one process has one precision; keys need two
            if section != "Env":
                monkeypatch.setattr(vector, "VectorEnv", Walk)
            folder = tmp_path / str(len(memory))
            folder.mkdir()
            with chdir(folder):
                memory[identity] = SEE[section](values)
        return memory[identity]

    return look


def test_every_key_has_a_row() -> None:
    assert set(MODELS) == set(BASE) == set(SEE)
    assert sorted((name, key) for name, rows in CHANGES.items() for key in rows) == sorted(KEYS)


@pytest.mark.parametrize("section", BASE)
def test_equal_values_are_seen_as_equal(section: str, see: Callable[..., Any]) -> None:
    """Otherwise the next test would hold for any key."""
    assert see(section, BASE[section]) == see(section, BASE[section], 1)


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_has_an_effect(section: str, key: str, see: Callable[..., Any]) -> None:
    """All values differ from one another, in the case of choices all choices."""
    change = CHANGES[section][key]
    base = {**BASE[section], **change.given}
    others = change.others or [value for value in choices(MODELS[section], key) if value != base[key]]
    assert others and base[key] not in others
    seen = [see(section, base | {key: value}) for value in [base[key], *others]]
    for index, one in enumerate(seen):
        assert one not in seen[:index], f"{key} = {others[index - 1]}"


@pytest.mark.parametrize(("section", "key"), SINGLE)
def test_a_key_with_one_choice_refuses_any_other(section: str, key: str) -> None:
    """Such a key names what there is; it becomes a choice when there is a second."""
    MODELS[section].model_validate(BASE[section])
    with pytest.raises(ValidationError, match="Input should be"):
        MODELS[section].model_validate(BASE[section] | {key: "another"})
