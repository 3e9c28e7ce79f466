"""SAC Flow's loop: it learns, and a killed run goes on bit for bit."""

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pirl_core.errors import UserError
from pirl_core.rl.sac import losses
from pirl_core.rl.sac.model import Batch, SacFlow
from pirl_core.rl.sac.replay import Replay
from pirl_core.rl.sac.train import PROCESS
from pirl_core.rl.train import noise_at
from tests.rl.sac.point import LENGTH, StopHereError, point_policy, settings, train
from tests.worlds import small_policy


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


def test_an_iteration_makes_up_for_what_the_last_one_made_too_many(tmp_path: Path) -> None:
    """Episodes are played to their ends, so at most four environments' worth is over, however many iterations."""
    rows = train(point_policy("mlp"), settings(iterations=9, sac={"decisions_per_iteration": 50}), tmp_path)
    totals = np.array([row["charts/total_steps"] for row in rows if "charts/total_steps" in row])
    over = totals - 50 * np.arange(1, 10)
    assert (over >= 0).all() and (over < 4 * LENGTH).all()
    assert not any("charts/success" in row for row in rows), "here ends are no success"


def test_the_first_decisions_are_uniform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []
    add = Replay.add
    monkeypatch.setattr(Replay, "add", lambda self, rows: (seen.append(rows.action.copy()), add(self, rows)))
    rl = settings(iterations=1, sac={"decisions_per_iteration": 600, "random_decisions": 300, "learning_starts": 600})
    train(point_policy("flow_g"), rl, tmp_path)
    action = np.concatenate(seen).ravel()
    drawn, own = np.sort(action[:300]), np.sort(action[300:600])
    # Kolmogorov's distance from uniform in (-1, 1), which 300 numbers exceed in one of a thousand draws.
    steps = np.arange(1, 301) / 300
    assert np.abs((drawn + 1) / 2 - steps).max() < 1.95 / 300**0.5
    assert np.abs((own + 1) / 2 - steps).max() > 1.95 / 300**0.5


def test_the_policy_stays_while_critics_warm_up(tmp_path: Path) -> None:
    policy = point_policy("mlp")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    rows = train(policy, settings(critic_warmup_iterations=4), tmp_path)
    assert rows[-1]["charts/updates"] > 0 and "losses/actor_loss" not in rows[-1]
    after = policy.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_what_it_cannot_train_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sees pictures"):
        train(small_policy(), settings(), tmp_path / "a")
    plain = point_policy("mlp")
    plain.normalization = plain.normalization._replace(squash=False)
    with pytest.raises(UserError, match="squash: true"):
        train(plain, settings(), tmp_path / "b")


@pytest.mark.parametrize(("part", "coef"), [("critic", 0.0), ("actor", float("inf"))])
def test_a_part_that_is_never_finite_ends_the_run_in_one_line(
    part: str, coef: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other part learns on meanwhile, and does not hide it."""
    if part == "critic":
        monkeypatch.setattr(losses, "critic_loss", lambda value, target: (value - target).mean() * float("nan"))
    with pytest.raises(UserError, match=f"of the {part} is not finite in 4 updates in a row .*max_skipped_updates = 3"):
        train(point_policy("mlp"), settings(sac={"proximal_coef": coef}), tmp_path, max_skipped_updates=3)


def test_a_skipped_update_is_told_and_its_losses_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound, calls = losses.critic_loss, count()
    monkeypatch.setattr(
        losses,
        "critic_loss",
        lambda value, target: sound(value, target) * (float("nan") if next(calls) == 1 else 1),
    )
    rows = train(point_policy("mlp"), settings(iterations=2), tmp_path, max_skipped_updates=3)
    assert [row["charts/skipped_updates"] for row in rows[1:]] == [1.0, 0.0]
    assert all(np.isfinite(row["losses/critic_loss"]) for row in rows[1:])


def test_the_proximal_term_pulls_towards_what_was_played() -> None:
    """Its slope is 2 (a − b) / B; alone, it leads the policy to the actions that were played, state by state."""
    action = torch.randn(5, 1, 2, requires_grad=True)
    played = torch.randn(5, 1, 2)
    [slope] = torch.autograd.grad(losses.proximal(action, played), [action])
    torch.testing.assert_close(slope, 2 * (action - played).detach() / 5)

    policy, rl = point_policy("flow_g"), settings()
    policy.add_heads(PROCESS, rl.critic_layers, True)
    model, noise = SacFlow(policy, rl.sac), noise_at(rl, 0)
    state = torch.linspace(-1, 1, 64)[:, None]
    batch = Batch(state, 0.6 * state[:, None], torch.zeros(64), state, torch.zeros(64))
    optimizer = torch.optim.Adam([p for p in policy.parameters() if p.requires_grad], 0.003)
    far = []
    for _ in range(150):
        told = model("actor", batch, torch.randn(64, 5, 1, 1), noise, rl.gamma)
        far.append(told["losses/proximal"].item())
        optimizer.zero_grad()
        told["losses/proximal"].backward()
        optimizer.step()
    # What is left is the least noise of the last step and of those before it.
    assert np.mean(far[-10:]) < 0.02 < 0.1 < np.mean(far[:10])


def test_held_near_what_was_played_it_strays_less(tmp_path: Path) -> None:
    far = {}
    for coef in (0.0, 100.0):
        rows = train(point_policy("mlp"), settings(iterations=6, sac={"proximal_coef": coef}), tmp_path / str(coef))
        far[coef] = rows[-1]["losses/proximal"]
    assert far[100.0] < 0.8 * far[0.0], far
