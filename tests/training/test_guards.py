"""Guards: each sign of trouble is told by name, and divergence stops a run that can still be gone on with."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from pirl_core.errors import UserError
from pirl_core.params.sections import Supervision
from pirl_core.rl.guards import divergence, warnings
from pirl_core.rl.train import chooses, train_rl
from pirl_core.training.learner import Learner
from tests.rl.test_rl import rl_params
from tests.worlds import SUPERVISION, Bandit, session, small_policy

GOOD = {"losses/approx_kl": 0.1, "losses/first_ratio_error": 1e-6, "validation/success": 0.5, "charts/success": 0.4}


def limits(**changes: Any) -> Supervision:
    return Supervision.model_validate(SUPERVISION | changes)


@pytest.mark.parametrize(
    ("changes", "best", "named"),
    [
        ({}, 0.6, []),
        ({"losses/approx_kl": 1.5}, 0.6, ["run.warn_kl"]),
        ({"losses/approx_kl": math.nan}, 0.6, ["run.warn_kl"]),
        ({"losses/first_ratio_error": 0.5}, 0.6, ["run.warn_first_ratio_error"]),
        ({"validation/success": 0.3}, 0.6, ["run.warn_success_drop"]),
        ({"charts/skipped_updates": 2.0}, 0.6, ["2 updates skipped"]),
        ({"charts/epochs": 0.4, "charts/updates": 2.0}, 0.6, ["after 2 gradient steps"]),
        ({"charts/epochs": 1.0, "charts/updates": 5.0}, 0.6, []),
        ({"losses/approx_kl": math.inf, "validation/success": 0.0}, 0.6, ["run.warn_kl", "run.warn_success_drop"]),
    ],
)
def test_each_sign_is_named(changes: dict[str, float], best: float, named: list[str]) -> None:
    found = warnings(GOOD | changes, best, limits())
    assert len(found) == len(named)
    assert all(name in text for name, text in zip(named, found, strict=True))


def test_divergence_is_beyond_a_parameter() -> None:
    wild = GOOD | {"losses/approx_kl": 3.0, "validation/success": 0.1}
    assert divergence(wild, 0.6, limits()) is None
    assert "run.stop_kl" in (divergence(wild, 0.6, limits(stop_kl=2.0)) or "")
    assert divergence(wild, 0.6, limits(stop_kl=4.0)) is None
    assert "run.stop_success_drop" in (divergence(wild, 0.6, limits(stop_success_drop=0.4)) or "")
    # An iteration without validation says nothing about success.
    del wild["validation/success"]
    assert divergence(wild, 0.6, limits(stop_success_drop=0.4)) is None


def test_a_stopped_run_keeps_its_checkpoint_and_goes_on_under_a_wider_limit(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rl = rl_params(iterations=4, episodes_per_iteration=64, actor_lr=0.02, validate_every=1)

    def run(**supervision: Any) -> list[dict[str, float]]:
        AcceleratorState._reset_state(reset_partial_state=True)
        with session(tmp_path, rl.iterations, **supervision) as opened:
            train_rl(
                small_policy(cameras=0, horizon=2, replan=2), Bandit(4, 0.8), ["b"], "none", rl, 0, opened,
                lambda i: {chooses("success"): 1.0 if i < 2 else 0.1}, lambda: None,
            )  # fmt: skip
        return [json.loads(line) for line in (tmp_path / "log/metrics.jsonl").read_text().splitlines()]

    with pytest.raises(UserError, match=r"iteration 2: validation success 0.10 is 0.90 below.*checkpoint before it"):
        run(stop_success_drop=0.5)
    kept = sorted(path.name for path in (tmp_path / ".pirl/resume/test/x/mark").iterdir())
    assert kept == ["000000000", "000000001"]
    assert [row["step"] for row in run()] == [0, 1, 2, 3, 4]
    told = [json.loads(line) for line in (tmp_path / "log/warnings.jsonl").read_text().splitlines()]
    assert {2, 3, 4} <= {row["step"] for row in told if "run.warn_success_drop" in row["text"]}


def test_an_update_that_is_not_finite_is_skipped_then_refused() -> None:
    module = nn.Linear(2, 1)
    learner = Learner(module, [{"params": list(module.parameters()), "lr": 0.1}], 0.0, 1.0, "fp32", 2)
    before = [parameter.clone() for parameter in module.parameters()]

    def step(factor: float) -> float | None:
        # A finite loss with a gradient that is not: the square root at 0.
        loss = (learner.module(torch.zeros(1, 2)) * 0).sum().sqrt() if factor == 0 else learner.module(
            torch.ones(1, 2)
        ).sum() * factor  # fmt: skip
        return learner.step(loss, loss.item(), 1.0)

    assert step(math.inf) is None
    assert step(0) is None
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
    assert step(1.0) is not None  # a good one ends the row
    assert step(math.nan) is None
    assert step(math.nan) is None
    with pytest.raises(UserError, match=r"3 in a row.*run.max_skipped_updates"):
        step(math.nan)
