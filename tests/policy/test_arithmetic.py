"""One arithmetic: what a saved policy does in evaluation is, bit for bit, what it did when it was validated."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
import torch

from pirl_core.envs.vector import slots as vector
from pirl_core.evaluation.evaluate import run_episodes, split_episodes
from pirl_core.evaluation.players import deterministic
from pirl_core.params import sections as params
from pirl_core.params.sections import Precision, Sft
from pirl_core.policy.flow_policy import FlowPolicy, keyed_normals
from pirl_core.policy.folder import load_policy, save_policy
from pirl_core.policy.precision import round_weights
from pirl_core.rl.train import chooses, train_rl
from pirl_core.sft.build import build_policy
from pirl_core.sft.train import train_sft
from pirl_core.stages import evaluate
from pirl_core.types import Episode
from tests.params import probes, walk
from tests.policy.test_families import FAMILIES, make
from tests.rl.test_rl import rl_params
from tests.sft.test_sft import BASE, ENV, POLICY, learnable
from tests.worlds import INSTRUCTIONS, Bandit, random_observation, session, small_policy

PRECISIONS = get_args(Precision)
EPISODES = [Episode("bandit", seed) for seed in range(6)]


@pytest.fixture(autouse=True)
def _alone() -> None:
    torch.set_num_threads(1)


def chunks(policy: FlowPolicy) -> torch.Tensor:
    normals = keyed_normals("chunk", [(row,) for row in range(3)], policy.chunk_shape)
    with torch.no_grad():
        return policy.act(policy.encode(random_observation(policy, 3)), normals)


def read(folder: Path) -> FlowPolicy:
    """As stage evaluate does."""
    policy = load_policy(folder)
    round_weights(policy, policy.precision)
    return policy


def kept(policy: FlowPolicy, folder: Path) -> FlowPolicy:
    folder.mkdir(exist_ok=True)
    save_policy(policy, folder)
    return read(folder)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_policy_acts_as_it_did(family: Any, precision: Precision, frozen: bool, tmp_path: Path) -> None:
    policy = make(family)
    if frozen:
        policy.backbone.freeze_vlm()
    exact = chunks(policy)
    round_weights(policy, precision)
    acted = chunks(policy)
    again = kept(policy, tmp_path)
    assert torch.equal(chunks(again), acted)
    assert (again.precision, again.state_dict().keys()) == (precision, policy.state_dict().keys())
    assert {name: value.dtype for name, value in again.named_parameters()} == {
        name: value.dtype for name, value in policy.named_parameters()
    }
    # In another arithmetic it would act otherwise.
    assert torch.equal(exact, acted) == (precision == "fp32")


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_validation_in_rl_is_evaluation_of_what_is_saved(precision: Precision, rank: int, tmp_path: Path) -> None:
    """The last validation is the best, so its policy is the one in the folder; adapters count as merged."""
    policy, bandit = small_policy(cameras=0, horizon=2, replan=2), Bandit(4, 0.8)
    rl = rl_params(iterations=2, episodes_per_iteration=32, precision=precision, lora_rank=rank, validate_every=1)
    seen: list[np.ndarray] = []

    def validate(iteration: int) -> dict[str, float]:
        seen.append(np.stack([outcome.actions for outcome in run_episodes(deterministic(policy), bandit, EPISODES)]))
        return {chooses("success"): iteration / 2}

    with session(tmp_path, rl.iterations) as opened:
        train_rl(
            policy, bandit, ["b"], "none", rl, 0, opened, validate, lambda: save_policy(policy, opened.policy)
        )  # fmt: skip
    player = deterministic(read(tmp_path / "policy"))
    evaluated = np.stack([outcome.actions for outcome in run_episodes(player, bandit, EPISODES)])
    assert len(seen) == 3 and not np.array_equal(seen[0], seen[-1])
    assert np.array_equal(evaluated, seen[-1])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_policy_after_sft_is_evaluated_as_it_learnt(precision: Precision, tmp_path: Path) -> None:
    frames = learnable()
    policy = build_policy(ENV, POLICY, frames, INSTRUCTIONS, 0).policy
    with session(tmp_path, 2) as opened:
        section = Sft.model_validate(BASE | {"steps": 2, "precision": precision, "ema_decay": 0.5})
        train_sft(policy, frames, ENV.cameras, section, 0, opened)
    assert policy.precision == precision
    assert torch.equal(chunks(kept(policy, tmp_path / "saved")), chunks(policy))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_stage_evaluates_in_it(precision: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rewards, which tell the actions, are those of the policy in memory; in fp32 they would be others."""
    monkeypatch.setattr(vector, "VectorEnv", walk.Walk)
    monkeypatch.chdir(tmp_path)
    probes.small_start("e-m-0")
    policy = load_policy(Path("outputs/policy/e-m-0"))
    section = params.Evaluate.model_validate(probes.BASE["Evaluate"])
    world = walk.Walk(probes.BLIND, section.num_envs)
    player, episodes = deterministic(policy), split_episodes(probes.BLIND, section, "id")
    exact = [outcome.reward for outcome in run_episodes(player, world, episodes)]
    policy.backbone.freeze_vlm()
    round_weights(policy, precision)
    wanted = [outcome.reward for outcome in run_episodes(player, world, episodes)]
    save_policy(policy, Path("outputs/policy/e-m-0"))
    evaluate.run(probes.job("evaluate", env=probes.BLIND, evaluate=section))
    assert pd.read_parquet("outputs/evaluate/e-m-0/episodes.parquet")["reward"].tolist() == wanted
    assert (wanted == exact) == (precision == "fp32")
