"""What each section of params.yaml does, seen in what its stage writes.

The stages are the real ones; where they would simulate, a small world of two or three decisions stands in.
"""

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from pirl_core.data.demonstrate import Demonstrator, Wish
from pirl_core.data.lerobot import write_dataset
from pirl_core.envs.metaworld.facts import FACTS
from pirl_core.envs.vector import slots as vector
from pirl_core.envs.vector.worker import Slots
from pirl_core.errors import UserError
from pirl_core.evaluation.evaluate import validation_episodes
from pirl_core.flow.chain import Noise
from pirl_core.params import sections as params
from pirl_core.params.file import resolve
from pirl_core.params.preset import preset_values
from pirl_core.policy import layers
from pirl_core.policy.exploration import save_exploration
from pirl_core.policy.flow_policy import keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.provenance.code import Code
from pirl_core.report.build import build_report
from pirl_core.rl import guards
from pirl_core.sft import build
from pirl_core.stages import curate, evaluate, rl, sft
from pirl_core.stages.job import Job, Sections
from pirl_core.stages.sources import Source
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from tests.checkpoints.test_pretrained import DATA, published_folder, tiny_shape, tokenizer
from tests.data.test_data import make_episode
from tests.data.test_recorded import write_recorded
from tests.params.walk import Walk, film
from tests.report.made_up import COUNTS, EASY, MEDIUM, N, fill, unchanged
from tests.rl.sac import point
from tests.worlds import SAC, SUPERVISION, random_observation, small_policy

SMOKE = preset_values("smoke")

EXPERIMENT = {
    "model": "tiny π0", "paper_model": "pi0", "env": {}, "curate": {}, "policy": {},
    "sft": {}, "rl": {}, "evaluate": {},
}  # fmt: skip
BASE: dict[str, dict[str, Any]] = {
    "Env": {
        "benchmark": "metaworld", "tasks": ["reach-v3"], "shift": "none", "episode_steps": 6, "cameras": ["corner2"],
        "image_size": 32, "fast_render": True, "object_state": False, "keys": {}, "frame_stack": 1,
        "sim_backend": "cpu",
    },
    "Curate": {
        "dataset": None, "dataset_revision": None, "columns": {}, "seed": 0, "episodes_per_task": 2, "still_frames": 0,
        "action_noise": 0.1, "max_attempts_per_episode": 2, "keep_per_task": None, "keep_episodes": None,
        "real": None,
        "expert_return": None, "expert_steps": 1,
    },
    "Real": {"shift": "none", "episodes_per_task": 1},
    "Policy": {
        "backbone": "pi05", "size": "nano", "pretrained": None, "revision": None, "tokenizer": "words",
        "state_in_prompt": False, "normalization": "mean_std", "normalization_from": "data",
        "delta_actions": 0, "squash": False,
        "horizon": 4, "replan": 2, "denoise_steps": 2,
    },
    "Sft": {
        "steps": 3, "batch_size": 4, "sim_share": None, "micro_batch_size": None, "lr": 1e-3, "warmup_steps": 1,
        "final_lr_fraction": 0.1, "weight_decay": 0.01,
        "max_grad_norm": 1.0, "tau_alpha": 1.5, "tau_beta": 1.0, "image_shift": 0, "image_crop": 0.0,
        "image_rotation": 0.0, "image_brightness": 0.0, "image_contrast": 0.0, "image_saturation": 0.0,
        "image_hue": 0.0, "precision": "fp32",
        "activation_checkpointing": False, "compile": False, "ema_decay": None, "log_every": 1,
    },
    "Rl": {
        "algorithm": "ppo", "noise_rule": "flow_sde", "noise_level": 0.5, "noise_schedule": "constant",
        "noise_level_final": 0.1, "noise_min_std": 0.04, "noise_max_std": 0.1, "mdp": "hybrid", "hybrid_draw": "env",
        "logprob_reduction": "sum", "iterations": 2, "num_envs": 4, "env_groups": 1, "episodes_per_iteration": 8,
        "group_size": 1, "gamma": 0.99, "gae_lambda": 0.95, "bootstrap_at_time_limit": True,
        "normalize_advantages": True, "reward_scale": False, "chain_bound": None,
        "update_epochs": 2, "minibatch_size": 8, "micro_batch_size": None, "context_device_gib": 1.0,
        "context_host_gib": 1.0, "actor_lr": 3e-3, "critic_lr": 1e-2, "lr_schedule": "constant",
        "final_lr_fraction": 0.1, "weight_decay": 0.01, "clip_ratio": 0.2, "value_clip": 0.2, "huber_delta": 10.0,
        "value_coef": 1.0, "entropy_coef": 0.0, "w2_coef": 0.0, "sft_coef": 0.0, "sft_batch_size": 4,
        "max_grad_norm": 1.0,
        "target_kl": None, "critic": "expert",
        "critic_layers": 4, "critic_warmup_iterations": 0, "precision": "fp32",
        "activation_checkpointing": False, "compile": False, "dropout": False, "lora_rank": 0, "lora_alpha": 4,
        "lora_targets": ["q_proj", "v_proj"], "validate_every": 1, "validation_episodes_per_task": 1, "keep": "best",
        "watch": {}, "record": "none", "sac": SAC,
    },
    "Sac": SAC,
    "Evaluate": {
        "seed": 0, "num_envs": 4, "env_groups": 1, "exploring_episodes_per_task": 0, "videos_per_outcome": 1,
        "record": "none",
        "splits": {"id": {"tasks": None, "shift": "none", "episodes_per_task": 4}},
    },
    "Split": {"tasks": None, "shift": "none", "episodes_per_task": 4},
    "Report": {"title": "A title"},
    "Supervision": SUPERVISION,
    "Experiment": EXPERIMENT,
    "Params": {
        "scale": "smoke", "seeds": [0, 1], "policies": ["sft", "flow_sde", "flow_noise"],
        "methods": {"flow_sde": {"mdp": "hybrid"}, "flow_noise": {"noise_rule": "learned", "mdp": "one_layer"}},
        "experiments": {"e": EXPERIMENT},
    },
}  # fmt: skip


BLIND = params.Env.model_validate(BASE["Env"] | {"cameras": [], "object_state": True, "episode_steps": 150})
SEEING = params.Env.model_validate(BASE["Env"])
ENTRY = params.Experiment.model_validate(BASE["Experiment"])
NO_SOURCE = Source({"benchmarks": (), "backbones": (), "noise_rules": ()}, Code({}, frozenset()), {})
CALM = params.Supervision.model_validate(BASE["Supervision"])


def job(
    stage: str,
    entry: params.Experiment = ENTRY,
    supervision: params.Supervision = CALM,
    **sections: params.Section,
) -> Job:
    name = {"curate": "e", "sft": "e-0", "rl": "e-m-0", "evaluate": "e-m-0", "risk": "e-m-0"}[stage]
    if stage == "rl":
        sections = {"sft": params.Sft.model_validate(BASE["Sft"])} | sections
    read: Any = [sections.get(field) for field in Sections._fields]
    return Job(stage, name, "e", "m", 0, entry, Sections(*read), supervision, NO_SOURCE)


def everything(folder: Path) -> list[tuple[str, str]]:
    """Each file and its hash, but for what the clock says."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "timing.jsonl")
    return [(path.relative_to(folder).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths]


class Work(NamedTuple):
    """kept: elements that autograd keeps for all backward passes. compiled: what torch.compile was asked for."""

    kept: list[int]
    compiled: set[str]


@contextmanager
def watched() -> Iterator[Work]:
    """The work within the block; torch.compile gives each function back as it is, to save a minute."""
    work = Work([0], set())

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        work.kept[0] += tensor.numel()
        return tensor

    def note(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
        work.compiled.add(function.__qualname__)
        return function

    layers._compiled.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "compile", note)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            yield work
    layers._compiled.cache_clear()


def see_env(values: dict[str, Any]) -> Any:
    env = params.Env.model_validate(values)
    settings = vector.VectorEnv(env, 1, 0)._settings
    slots = Slots(settings)
    episodes = validation_episodes(env, 0, 1)
    images, state, told = slots.reset(list(enumerate(episodes)))
    outcome = slots.step(list(range(len(episodes))), np.full((len(episodes), 8, 4), 0.5))
    return [(array.shape, hashlib.sha256(array.tobytes()).hexdigest()) for array in (images, state, told, *outcome)]


def see_real(values: dict[str, Any]) -> Any:
    return see_curate(BASE["Curate"] | {"real": values})


def see_sac(values: dict[str, Any]) -> Any:
    policy = point.point_policy("mlp")
    changes = {"num_envs": 4, "iterations": 2, "sac": values}
    rows = point.train(policy, point.settings(**changes), Path("sac"))
    return rows, everything(Path("sac/policy")), sum(float(p.detach().abs().sum()) for p in policy.parameters())


class Counting(Demonstrator):
    attempts = 0

    def attempt(self, *arguments: Any) -> Any:
        self.attempts += 1
        return super().attempt(*arguments)


def see_curate(values: dict[str, Any]) -> Any:
    section = params.Curate.model_validate(values)
    write_recorded(Path("recorded"), BLIND, 2)
    try:
        curate.run(job("curate", env=BLIND, curate=section))
    except UserError as error:
        return str(error)
    hopeless = Counting(BLIND.model_copy(update={"episode_steps": 2}), section)
    assert hopeless.make(Wish("reach-v3", 0)) is None
    return everything(Path("outputs")), hopeless.attempts


def demonstrate_here(
    env: params.Env, section: params.Curate, wishes: list[Wish], workers: int | None, trained: None
) -> Generator[Any]:
    """As ``data.demonstrate.demonstrations``, without processes."""
    yield from map(Demonstrator(env, section).make, wishes)


def write_demonstrations(cameras: Sequence[str] = ("corner2",)) -> None:
    """Of two domains."""
    rng = np.random.default_rng(0)
    for folder in (Path("outputs/curate/e"), Path("outputs/curate/e/real")):
        folder.mkdir(parents=True)
        demos = [make_episode(rng, task, length, cameras=len(cameras)) for task, length in ((0, 9), (1, 6))]
        write_dataset(folder, demos, list(cameras), FACTS)


def see_sft(values: dict[str, Any]) -> Any:
    write_demonstrations()
    policy = params.Policy.model_validate(BASE["Policy"])
    with watched() as work:
        sft.run(job("sft", env=SEEING, policy=policy, sft=params.Sft.model_validate(values)))
    return everything(Path("outputs")), work


def see_policy(values: dict[str, Any]) -> Any:
    """What the written policy does, not what its folder says; or why there is none."""
    write_demonstrations()
    section = params.Sft.model_validate(BASE["Sft"] | {"steps": 1})
    with pytest.MonkeyPatch.context() as patch:
        if values["size"] == "full":
            patch.setattr(build, "published_sizes", lambda *_: DATA)
            patch.setattr(build, "new_shape", tiny_shape)
            for folder in (Path("published"), Path("other")):
                folder.mkdir()
                published_folder(values["backbone"], "openpi", folder)
            tokenizer(reverse=True).save("other/tokenizer.json")
        try:
            sft.run(job("sft", env=SEEING, policy=params.Policy.model_validate(values), sft=section))
        except UserError as error:
            return str(error)
    policy = load_policy(Path("outputs/policy/e-sft-0"))
    shape = policy.backbone.shape
    context = policy.encode(random_observation(policy, 2))
    act = policy.act(context, keyed_normals("chunk", [(0,), (1,)], (shape.horizon, shape.action_dim)))
    return act.tolist(), {name: tuple(value.shape) for name, value in policy.state_dict().items()}


def see_supervision(values: dict[str, Any]) -> Any:
    """What is said of a run that goes badly, what is filmed, what is saved, and when it is stopped."""
    section = params.Supervision.model_validate(values)
    bad = {"losses/approx_kl": 5.0, "losses/first_ratio_error": 0.5, "validation/success": 0.3}
    said = guards.warnings(bad, 0.6, section), guards.divergence(bad, 0.6, section)
    small_start("e-sft-0")
    stopped = filmed = None
    saved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda _, step, write: saved.append(step))
        patch.setattr("pirl_core.envs.vector.replay.render_episode", film)
        seen: list[str] = []
        patch.setattr(Tracker, "video", lambda _, step, tag, *rest: seen.append(tag))
        # Every update is skipped: two epochs of so many minibatches, in two iterations.
        broken = params.Rl.model_validate(BASE["Rl"] | {"max_grad_norm": 1e9, "actor_lr": 1e9, "iterations": 4})
        try:
            rl.run(job("rl", supervision=section, env=BLIND, rl=broken))
        except UserError as error:
            stopped = str(error)
        filmed = sorted(set(seen))
    return said, saved, filmed, stopped


def small_start(name: str) -> None:
    sizes: dict[str, Any] = {"vlm_width": 16, "vlm_layers": 1, "expert_width": 16, "state_dim": 39, "action_dim": 4}
    folder = Path("outputs/policy") / name
    folder.mkdir(parents=True)
    policy = small_policy(cameras=0, horizon=2, replan=2, **sizes)
    save_policy(policy, folder)
    save_exploration(policy, Noise("flow_sde", 0.5, 0.0, 0.0), "hybrid", folder)


def see_rl(values: dict[str, Any]) -> Any:
    small_start("e-sft-0")
    if values["algorithm"] == "sac":
        save_policy(point.point_policy("flow_g", 39, 4), Path("outputs/policy/e-sft-0"))
    write_demonstrations([])
    try:
        with watched() as work:
            rl.run(job("rl", env=BLIND, rl=params.Rl.model_validate(values)))
    except UserError as error:  # the policy has no dropout
        return str(error)
    world = Walk.made[-1]
    return everything(Path("outputs")), sorted(world.played), world.widest, work


def see_evaluate(values: dict[str, Any], entry: params.Experiment = ENTRY) -> Any:
    small_start("e-sft-0")
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
    build_report(checked, Path("outputs"), Path("results"), unchanged)
    return everything(Path("results")), everything(Path("outputs/report"))


def see_experiment(values: dict[str, Any]) -> Any:
    whole = params.Params.model_validate(SMOKE | {"experiments": {"e": values}})
    seen = see_evaluate(BASE["Evaluate"], whole.experiments["e"]) if values["model"] != ENTRY.model else None
    return resolve(whole, "e"), seen, see_report(BASE["Report"], experiments={"e": values})


def see_params(values: dict[str, Any]) -> Any:
    whole = params.Params.model_validate(SMOKE | values)
    found = [resolve(whole, e, m) for e in whole.experiments for m in whole.methods]
    return found, see_report(BASE["Report"], **values)


SEE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Env": see_env, "Curate": see_curate, "Real": see_real, "Policy": see_policy, "Sft": see_sft, "Rl": see_rl,
    "Sac": see_sac,
    "Evaluate": see_evaluate, "Split": see_split, "Report": see_report, "Experiment": see_experiment,
    "Supervision": see_supervision, "Params": see_params,
}  # fmt: skip
