"""SAC Flow's loop on a point that is to stay near 0: it learns, and a killed run goes on bit for bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pirl_core.errors import UserError
from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Rl
from pirl_core.policy.backbone import new_backbone, new_shape
from pirl_core.policy.context import DataSizes
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.folder import save_policy
from pirl_core.policy.normalize import Affine, Normalization
from pirl_core.policy.tokenizer import build_tokenizer
from pirl_core.rl.sac.train import train_sac
from pirl_core.types import ChunkResult, Episode, Observation
from tests.worlds import session, small_policy

LENGTH = 6


class Point:
    """It starts at ±1 by its seed, moves by the action, and pays −x² for each of ``LENGTH`` steps, then time is up."""

    num_envs = 4

    def __init__(self) -> None:
        self.x = np.zeros(self.num_envs, np.float32)
        self.steps = np.zeros(self.num_envs, np.int64)

    def _observe(self, slots: list[int]) -> Observation:
        return Observation(
            np.zeros((len(slots), 0, 0, 0, 3), np.uint8), self.x[slots, None].copy(), ["go"] * len(slots)
        )

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        self.x[slots] = [1.0 if episode.seed % 2 else -1.0 for episode in episodes]
        self.steps[slots] = 0
        return self._observe(slots)

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        self.x[slots] += actions[:, 0, 0]
        self.steps[slots] += 1
        over = self.steps[slots] == LENGTH
        return ChunkResult(
            self._observe(slots), -np.square(self.x[slots]), ~over & False, over, np.ones(len(slots), int)
        )


def point_policy(family: str) -> FlowPolicy:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(["go"])
    shape = new_shape(family, "nano", DataSizes(32, 0, tokenizer.get_vocab_size(), 2, 1, 1, 1))
    same = Normalization(Affine([0.0], [1.0]), Affine([0.0], [0.8]), 0, squash=True)
    return FlowPolicy(new_backbone(shape), tokenizer, "words", same, 1, 4)


def settings(**changes: Any) -> Rl:
    base = load_preset("laptop").rl
    sac = {
        "decisions_per_iteration": 72, "learning_starts": 72, "batch_size": 48, "critic_width": 32, "replay_size": 200,
        **changes.pop("sac", {}),
    }  # fmt: skip
    told = {
        "algorithm": "sac", "mdp": "one_layer", "noise_rule": "learned", "noise_min_std": 0.02, "noise_max_std": 0.5,
        "iterations": 4, "gamma": 0.9, "actor_lr": 0.003, "critic_lr": 0.003, **changes,
    }  # fmt: skip
    return base.model_copy(update={**told, "sac": base.sac.model_copy(update=sac)})


class StopHereError(Exception):
    pass


def train(policy: FlowPolicy, rl: Rl, folder: Path, stop: int | None = None) -> list[dict[str, float]]:
    def improved() -> None:
        save_policy(policy, opened.policy)

    def validate(iteration: int) -> dict[str, float]:
        if iteration == stop:
            raise StopHereError
        return {"validation/return": float(iteration)}

    with session(folder, rl.iterations) as opened:
        train_sac(policy, Point(), ["point"], "none", rl, 0, opened, validate, improved, "return")
        lines = (opened.log / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("family", ["mlp", "flow_g"])
def test_it_learns(family: str, tmp_path: Path) -> None:
    rows = train(point_policy(family), settings(iterations=12, sac={"replay_size": 2000}), tmp_path)
    returns = [row["charts/episodic_return"] for row in rows if "charts/episodic_return" in row]
    # Doing nothing pays -6, the best that there is about -0.1.
    assert returns[0] < -3
    assert returns[-1] > -1.2, returns


@pytest.mark.parametrize("sac", [{}, {"target_rate": None, "renorm_warmup": 100}])
def test_a_killed_run_goes_on_bit_for_bit(sac: dict[str, Any], tmp_path: Path) -> None:
    rl = settings(validate_every=1, sac=sac)
    whole = point_policy("flow_g")
    rows = train(whole, rl, tmp_path / "whole")
    with pytest.raises(StopHereError):
        train(point_policy("flow_g"), rl, tmp_path / "cut", stop=3)
    again = point_policy("flow_g")
    assert train(again, rl, tmp_path / "cut")[-1]["losses/critic_loss"] == rows[-1]["losses/critic_loss"]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_what_it_cannot_train_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sees pictures"):
        train(small_policy(), settings(), tmp_path / "a")
    plain = point_policy("mlp")
    plain.normalization = plain.normalization._replace(squash=False)
    with pytest.raises(UserError, match="squash: true"):
        train(plain, settings(), tmp_path / "b")
