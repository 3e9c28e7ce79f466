"""SAC Flow's loop: it learns, and a killed run goes on bit for bit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pirl_core.errors import UserError
from tests.rl.sac.point import StopHereError, point_policy, settings, train
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


def test_what_it_cannot_train_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sees pictures"):
        train(small_policy(), settings(), tmp_path / "a")
    plain = point_policy("mlp")
    plain.normalization = plain.normalization._replace(squash=False)
    with pytest.raises(UserError, match="squash: true"):
        train(plain, settings(), tmp_path / "b")
