"""No key without effect: changing any key of params.yaml changes something that its stage writes.

Keys and choices come from the models themselves, so a new key without a row here fails. The stages are the real ones;
where they would simulate, a small world of two or three decisions stands in.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from pydantic import ValidationError

from pirl_core import curate as curation
from pirl_core import params, seeds
from pirl_core.data.experts import Demonstrator, Wish
from pirl_core.data.lerobot import write_dataset
from pirl_core.envs import vector
from pirl_core.envs.worker import Slots
from pirl_core.evaluate import validation_episodes
from pirl_core.policy.flow_policy import keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.report.build import build_report
from pirl_core.stages import curate, evaluate, rl, sft
from pirl_core.stages.cli import Job
from pirl_core.types import ChunkResult, Episode, Observation
from tests.test_data import make_episode
from tests.test_report import COUNTS, EASY, MEDIUM, N, fill
from tests.worlds import random_observation, small_policy

PRESET = Path(__file__).parents[1] / "pirl_core" / "presets" / "smoke.yaml"
SMOKE: dict[str, Any] = yaml.safe_load(PRESET.read_text())
pytestmark = pytest.mark.filterwarnings("ignore:Constant")


class Change(NamedTuple):
    """Other values of a key (the choices that its type lists, if empty), and what it needs to matter."""

    others: list[Any] = []
    given: dict[str, Any] = {}


BASE: dict[str, dict[str, Any]] = {
    "Env": {
        "tasks": ["reach-v3"], "episode_steps": 6, "cameras": ["corner2"], "image_size": 32, "fast_render": True,
        "object_state": False,
    },
    "Curate": {
        "seed": 0, "episodes_per_task": 2, "action_noise": 0.1, "max_attempts_per_episode": 2, "keep_per_task": None,
        "keep_episodes": None,
    },
    "Policy": {
        "backbone": "tiny_pi0", "vlm_width": 16, "vlm_layers": 1, "vision_width": 32, "vision_layers": 1,
        "expert_width": 16, "heads": 2, "head_dim": 8, "horizon": 4, "replan": 2, "denoise_steps": 2,
    },
    "Sft": {
        "steps": 3, "batch_size": 4, "lr": 1e-3, "warmup_steps": 1, "final_lr_fraction": 0.1, "weight_decay": 0.01,
        "max_grad_norm": 1.0, "tau_alpha": 1.5, "tau_beta": 1.0, "image_shift": 0, "precision": "fp32", "log_every": 1,
    },
    "Rl": SMOKE["rl"] | {
        "iterations": 2, "num_envs": 4, "episodes_per_iteration": 8, "minibatch_size": 8, "actor_lr": 3e-3,
        "critic_lr": 1e-2, "validation_episodes_per_task": 1,
    },
    "Evaluate": {
        "seed": 0, "num_envs": 4, "videos_per_outcome": 1,
        "splits": {"id": {"tasks": None, "shift": "none", "episodes_per_task": 4}},
    },
    "Split": {"tasks": None, "shift": "none", "episodes_per_task": 4},
    "Report": {"title": "A title", "bootstrap_samples": 100, "seed": 0},
    "Experiment": SMOKE["experiments"]["metaworld"],
    "Params": {key: SMOKE[key] for key in ("scale", "policies", "methods", "experiments")} | {"seeds": [0, 1]},
}  # fmt: skip

LEARNED = {"noise_rule": "learned", "mdp": "one_layer"}
CHANGES: dict[str, dict[str, Change]] = {
    "Env": {
        "tasks": Change([["drawer-close-v3"], ["reach-v3", "drawer-close-v3"]]),
        "episode_steps": Change([5]),
        "cameras": Change([["corner3"], ["gripperPOV"], ["corner2", "corner3"], ["corner3", "corner2"]]),
        "image_size": Change([48]),
        "fast_render": Change([False]),
        "object_state": Change([True]),
    },
    "Curate": {
        "seed": Change([1]),
        "episodes_per_task": Change([3]),
        "action_noise": Change([0.0]),
        "max_attempts_per_episode": Change([3]),
        "keep_per_task": Change([1]),
        "keep_episodes": Change([[1]]),
    },
    "Policy": {
        "vlm_width": Change([32]),
        "vlm_layers": Change([2]),
        "vision_width": Change([64]),
        "vision_layers": Change([2]),
        "expert_width": Change([32]),
        "heads": Change([4]),
        "head_dim": Change([16]),
        "horizon": Change([5]),
        "replan": Change([3]),
        "denoise_steps": Change([3]),
    },
    "Sft": {
        "steps": Change([4]),
        "batch_size": Change([5]),
        "lr": Change([2e-3]),
        "warmup_steps": Change([0, 2]),
        "final_lr_fraction": Change([0.5]),
        "weight_decay": Change([0.0]),
        "max_grad_norm": Change([0.01]),
        "tau_alpha": Change([3.0]),
        "tau_beta": Change([3.0]),
        "image_shift": Change([2]),
        "precision": Change(),
        "log_every": Change([2]),
    },
    "Rl": {
        "algorithm": Change(given={"group_size": 2}),
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
        "episodes_per_iteration": Change([10]),
        "group_size": Change([2]),
        "gamma": Change([0.5]),
        "gae_lambda": Change([0.5]),
        "bootstrap_at_time_limit": Change([False]),
        "normalize_advantages": Change([False]),
        "update_epochs": Change([3]),
        "minibatch_size": Change([16]),
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
        "max_grad_norm": Change([0.01]),
        "target_kl": Change([1e-9]),
        "critic": Change(),
        "critic_layers": Change(),
        "critic_warmup_iterations": Change([1]),
        "precision": Change(),
        "validate_every": Change([2]),
        "validation_episodes_per_task": Change([2]),
        "keep": Change(),
    },
    "Evaluate": {
        "seed": Change([1]),
        "num_envs": Change([3]),
        "splits": Change([{**BASE["Evaluate"]["splits"], "ood_x": BASE["Split"]}]),
        "videos_per_outcome": Change([0, 2]),
    },
    "Split": {"tasks": Change([["drawer-close-v3"]]), "shift": Change(), "episodes_per_task": Change([5])},
    "Report": {"title": Change(["Another"]), "bootstrap_samples": Change([150]), "seed": Change([1])},
    "Experiment": {
        "model": Change(["large π0"]),
        "paper_model": Change(["pi0", "pi05", "groot"], {"paper_model": None}),
        "env": Change([{"image_size": 64}]),
        "curate": Change([{"seed": 7}]),
        "policy": Change([{"vlm_layers": 7}]),
        "sft": Change([{"steps": 7}]),
        "rl": Change([{"iterations": 7}]),
        "evaluate": Change([{"seed": 7}]),
    },
    "Params": {
        "scale": Change(),
        "seeds": Change([[0], [1, 0]]),
        "policies": Change([["sft"], ["flow_sde", "sft"]]),
        "methods": Change([SMOKE["methods"] | {"flow_sde": {"mdp": "two_layer"}}]),
        "experiments": Change([{"other": BASE["Experiment"]}]),
    },
}  # fmt: skip


class Walk:
    """Stands in for the simulators: episodes of two decisions (success) or three (time limit).

    Start and reward depend on the episode; a validation episode succeeds only the first time it is played, so the
    first policy is the best one. ``played`` lists every start, ``widest`` is the largest batch.
    """

    made: list["Walk"] = []

    def __init__(self, env: params.Env, num_envs: int) -> None:
        self.num_envs = num_envs
        self.state_dim = 39
        self.played: list[Episode] = []
        self.widest = 0
        self.slots: dict[int, tuple[Episode, int, bool]] = {}
        Walk.made.append(self)

    def __enter__(self) -> "Walk":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def _observe(self, slots: list[int]) -> Observation:
        rows = []
        for slot in slots:
            (_, seed, shift), decision, _ = self.slots[slot]
            rows.append(np.random.default_rng([seed, len(shift)]).standard_normal(self.state_dim) + decision)
        images = np.zeros((len(slots), 0, 32, 32, 3), np.uint8)
        return Observation(images, np.array(rows, np.float32), ["reach"] * len(slots))

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        for slot, episode in zip(slots, episodes, strict=True):
            seen = episode in self.played and seeds.purpose_of(episode.seed) == seeds.VALIDATION
            self.played.append(episode)
            validation = seeds.purpose_of(episode.seed) == seeds.VALIDATION
            self.slots[slot] = episode, 0, not seen if validation else bool(episode.seed % 2)
        return self._observe(slots)

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        self.widest = max(self.widest, len(slots))
        for slot in slots:
            episode, decision, wins = self.slots[slot]
            self.slots[slot] = episode, decision + 1, wins
        wins, decision = (np.array([self.slots[slot][field] for slot in slots]) for field in (2, 1))
        terminated, truncated = wins & (decision == 2), ~wins & (decision == 3)
        reward = terminated - np.square(actions - 0.5).mean((1, 2))
        steps = np.full(len(slots), actions.shape[1])
        return ChunkResult(self._observe(slots), reward.astype(np.float32), terminated, truncated, steps)


BLIND = params.Env.model_validate(BASE["Env"] | {"cameras": [], "object_state": True, "episode_steps": 150})
SEEING = params.Env.model_validate(BASE["Env"])
ENTRY = params.Experiment.model_validate(BASE["Experiment"])


def job(stage: str, entry: params.Experiment = ENTRY, **sections: params.Section) -> Job:
    name = {"curate": "e", "sft": "e-0", "rl": "e-m-0", "evaluate": "e-m-0"}[stage]
    read: Any = [sections.get(field) for field in params.Run._fields]
    return Job(stage, name, "e", "m", 0, entry, params.Run(*read))


def everything(folder: Path) -> list[tuple[str, str]]:
    """Each file and its hash; metrics without what the clock says."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in content.decode().splitlines()]
            kept = [{k: v for k, v in row.items() if k[:4] != "time" and k != "charts/SPS"} for row in rows]
            content = json.dumps(kept).encode()
        found.append((path.relative_to(folder).as_posix(), hashlib.sha256(content).hexdigest()))
    return found


def see_env(values: dict[str, Any]) -> Any:
    env = params.Env.model_validate(values)
    settings = vector.VectorEnv(env, 1, 0)._settings
    slots = Slots(settings)
    episodes = validation_episodes(env, 0, 1)
    images, state = slots.reset(list(enumerate(episodes)))
    outcome = slots.step(list(range(len(episodes))), np.full((len(episodes), 8, 4), 0.5))
    return [(array.shape, hashlib.sha256(array.tobytes()).hexdigest()) for array in (images, state, *outcome)]


class Counting(Demonstrator):
    attempts = 0

    def attempt(self, *arguments: Any) -> Any:
        self.attempts += 1
        return super().attempt(*arguments)


def see_curate(values: dict[str, Any]) -> Any:
    section = params.Curate.model_validate(values)
    curate.run(job("curate", env=BLIND, curate=section))
    hopeless = Counting(BLIND.model_copy(update={"episode_steps": 2}), section)
    assert hopeless.make(Wish("reach-v3", 0)) is None
    return everything(Path("outputs")), hopeless.attempts


def demonstrate_here(env: params.Env, section: params.Curate, wishes: list[Wish], workers: int | None) -> Iterator[Any]:
    """As ``data.experts.demonstrations``, without processes."""
    return map(Demonstrator(env, section).make, wishes)


def write_demonstrations() -> None:
    rng = np.random.default_rng(0)
    Path("outputs/curate/e").mkdir(parents=True)
    demos = [make_episode(rng, task, length, cameras=1) for task, length in ((0, 9), (1, 6))]
    write_dataset(Path("outputs/curate/e"), demos, ["corner2"], fps=80)


def see_sft(values: dict[str, Any]) -> Any:
    write_demonstrations()
    policy = params.Policy.model_validate(BASE["Policy"])
    sft.run(job("sft", env=SEEING, policy=policy, sft=params.Sft.model_validate(values)))
    return everything(Path("outputs"))


def see_policy(values: dict[str, Any]) -> Any:
    """What the written policy does, not what its folder says."""
    write_demonstrations()
    section = params.Sft.model_validate(BASE["Sft"] | {"steps": 1})
    sft.run(job("sft", env=SEEING, policy=params.Policy.model_validate(values), sft=section))
    policy = load_policy(Path("outputs/policy/e-sft-0"))
    shape = policy.backbone.shape
    context = policy.encode(random_observation(policy, 2))
    act = policy.act(context, keyed_normals([(0,), (1,)], (shape.horizon, shape.action_dim)))
    return act.tolist(), {name: tuple(value.shape) for name, value in policy.state_dict().items()}


def small_start(name: str) -> None:
    sizes = {"vlm_width": 16, "vlm_layers": 1, "expert_width": 16, "state_dim": 39, "action_dim": 4}
    folder = Path("outputs/policy") / name
    folder.mkdir(parents=True)
    save_policy(small_policy(cameras=0, horizon=2, replan=2, **sizes), folder)


def see_rl(values: dict[str, Any]) -> Any:
    small_start("e-sft-0")
    rl.run(job("rl", env=BLIND, rl=params.Rl.model_validate(values)))
    world = Walk.made[-1]
    return everything(Path("outputs")), sorted(world.played), world.widest


def see_evaluate(values: dict[str, Any], entry: params.Experiment = ENTRY) -> Any:
    small_start("e-m-0")
    evaluate.run(job("evaluate", entry, env=BLIND, evaluate=params.Evaluate.model_validate(values)))
    return everything(Path("outputs")), Walk.made[-1].widest


def see_split(values: dict[str, Any]) -> Any:
    return see_evaluate(BASE["Evaluate"] | {"splits": {"id": values}})


def see_report(values: dict[str, Any], **top: Any) -> Any:
    """Every file of the report on made-up evaluations."""
    splits = {"id": {"tasks": None, "shift": "none", "episodes_per_task": N}}
    whole = SMOKE | BASE["Params"] | {"report": values, "evaluate": SMOKE["evaluate"] | {"splits": splits}} | top
    checked = params.Params.model_validate(whole)
    counts = {key: {EASY: wins[EASY], MEDIUM: wins[MEDIUM]} for key, wins in COUNTS.items() if key[0] == "id"}
    fill(Path("outputs"), checked, counts)
    build_report(checked, Path("outputs"), Path("results"))
    return everything(Path("results")), everything(Path("outputs/report"))


def see_experiment(values: dict[str, Any]) -> Any:
    whole = params.Params.model_validate(SMOKE | {"experiments": {"e": values}})
    seen = see_evaluate(BASE["Evaluate"], whole.experiments["e"]) if values["model"] != ENTRY.model else None
    return params.resolve(whole, "e"), seen, see_report(BASE["Report"], experiments={"e": values})


def see_params(values: dict[str, Any]) -> Any:
    whole = params.Params.model_validate(SMOKE | values)
    found = [params.resolve(whole, e, m) for e in whole.experiments for m in whole.methods]
    return found, see_report(BASE["Report"], **values)


SEE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Env": see_env, "Curate": see_curate, "Policy": see_policy, "Sft": see_sft, "Rl": see_rl,
    "Evaluate": see_evaluate, "Split": see_split, "Report": see_report, "Experiment": see_experiment,
    "Params": see_params,
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


def choices(model: type[params.Section], key: str) -> list[Any]:
    """The values that a Literal key lists; [] for any other key."""
    kind = model.model_fields[key].annotation
    return list(get_args(kind)) if get_origin(kind) is Literal else []


SINGLE = [(name, key) for name, model in MODELS.items() for key in model.model_fields if len(choices(model, key)) == 1]
KEYS = [
    (name, key)
    for name, model in MODELS.items()
    for key, field in model.model_fields.items()
    if (name, key) not in SINGLE and field.annotation not in MODELS.values()
]
memory: dict[str, Any] = {}


@pytest.fixture
def see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """(section, values, how often seen before) → what the section's stage does with these values."""
    monkeypatch.setattr(curation, "demonstrations", demonstrate_here)
    monkeypatch.setattr("pirl_core.videos.render_episode", lambda *_: np.zeros((2, 8, 8, 3), np.uint8))
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
    base = BASE[section] | change.given
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
