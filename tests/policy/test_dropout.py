"""Dropout in RL: off as published, kept where it is asked for, and never in what validates."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pirl_core.errors import UserError
from pirl_core.evaluation.evaluate import run_episodes
from pirl_core.evaluation.players import deterministic
from pirl_core.params.sizes import Size
from pirl_core.policy.context import DataSizes
from pirl_core.policy.dropout import expert_dropout
from pirl_core.policy.families.groot.network import Groot, groot_shape
from pirl_core.rl.train import chooses, train_rl
from pirl_core.types import Episode
from tests.policy.test_families import FAMILIES, make
from tests.rl.test_rl import rl_params
from tests.worlds import Bandit, session

EPISODES = [Episode("b", number) for number in range(4)]


@pytest.mark.parametrize("size", ["nano", "tiny", "S", "M", "L", "full"])
def test_groot_drops_out_as_published(size: Size) -> None:
    assert groot_shape(size, DataSizes(224, 1, 151680, 256, 64, 32, 16)).dropout == 0.2


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_expert_of_groot_has_any(family: str) -> None:
    backbone = make(family).backbone
    if family != "groot":
        with pytest.raises(UserError, match=rf"^rl\.dropout = true: the expert of {family} has no dropout.*false$"):
            expert_dropout(backbone)
        return
    found = expert_dropout(backbone)
    assert isinstance(backbone, Groot)
    assert {id(module) for module in found} == {
        id(module) for module in backbone.action_head.model.modules() if isinstance(module, nn.Dropout)
    }


@pytest.mark.parametrize("dropout", [False, True])
def test_the_first_ratio_is_1_without_dropout_alone(dropout: bool, tmp_path: Path) -> None:
    """And what validates acts the same each time it is asked: no mask is drawn for it."""
    torch.set_num_threads(1)
    policy = make("groot", cameras=0)
    rl = rl_params(iterations=2, episodes_per_iteration=16, dropout=dropout, validate_every=1)
    seen: list[list[float]] = []

    def validate(_: int) -> dict[str, float]:
        assert not any(module.training for module in policy.modules())
        twice = [run_episodes(deterministic(policy), Bandit(4, 0.8), EPISODES) for _ in range(2)]
        one, other = ([outcome.reward for outcome in outcomes] for outcomes in twice)
        assert one == other
        seen.append(one)
        return {chooses("success"): 0.0}

    with session(tmp_path, rl.iterations) as opened:
        train_rl(policy, Bandit(4, 0.8), ["b"], "none", rl, 0, opened, validate, lambda: None)
    assert len(seen) == 3 and seen[0] != seen[-1] and not any(module.training for module in policy.modules())
    rows = [json.loads(line) for line in (tmp_path / "log/metrics.jsonl").read_text().splitlines()][1:]
    errors = [row["losses/first_ratio_error"] for row in rows]
    assert all(error > 0.01 if dropout else error < 1e-3 for error in errors)
