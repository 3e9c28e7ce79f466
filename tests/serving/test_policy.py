"""The notebook's call, with a policy from its folder and from every layout that one goes out in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.setting import laptop
from pirl_core.commands import cli
from pirl_core.data.lerobot import Frames
from pirl_core.errors import UserError
from pirl_core.policy.folder import save_policy
from pirl_core.policy.interface import Interface, interface_of
from pirl_core.serving.policy import Policy, load_policy
from pirl_core.sft.build import build_policy
from tests.serving.running import policy_of, predicted
from tests.worlds import random_observation, small_policy


def built(folder: Path, backbone: str = "pi0") -> Policy:
    """As stage sft makes and writes one, with its weights far from where they began."""
    run = laptop()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 1, 64, 64, 3), np.uint8)
    numbers = rng.standard_normal((4, 39)).astype(np.float32), rng.uniform(-1, 1, (4, 4)).astype(np.float32)
    row = np.arange(4)
    frames = Frames(images, *numbers, row, row, row, ["press the red button"] * 4)
    env = run.env.model_copy(update={"cameras": ["corner2"], "image_size": 64, "object_state": True})
    sizes = run.policy.model_copy(update={"backbone": backbone, "size": "nano"})
    policy = build_policy(env, sizes, frames, ["press the red button", "open the drawer"], 0).policy.eval()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    folder.mkdir()
    save_policy(policy, folder)
    return load_policy(folder)


def test_the_folder_says_what_is_read_and_moved(tmp_path: Path) -> None:
    interface = built(tmp_path / "policy").interface
    assert (interface.benchmark, interface.cameras) == ("metaworld", ["corner2"])
    assert interface.state[:5] == ["x", "y", "z", "gripper", "object0"] and len(interface.state) == 39
    assert len(interface.action) == 4
    assert interface.instructions == ["press the red button", "open the drawer"]


def test_a_policy_of_no_benchmark_has_numbers_for_names() -> None:
    env = laptop().env.model_copy(update={"benchmark": None, "cameras": ["front"]})
    found = interface_of(env, 3, 2, ["stack"])
    assert found == Interface("", ["front"], ["state0", "state1", "state2"], ["action0", "action1"], None, ["stack"])


@pytest.mark.parametrize(
    ("backbone", "layouts"), [("pi0", ["openpi", "lerobot"]), ("smolvla", ["lerobot"]), ("groot", ["isaac"])]
)
def test_an_export_acts_as_its_policy(backbone: str, layouts: list[str], tmp_path: Path) -> None:
    policy = built(tmp_path / "policy", backbone)
    observation = random_observation(policy.flow, 1)
    expected = predicted(policy, observation, 0, 3)
    for layout in layouts:
        out = tmp_path / layout
        assert cli.main(["export", str(tmp_path / "policy"), str(out), "--to", layout]) == 0
        exported = load_policy(out)
        assert exported.interface == policy.interface
        np.testing.assert_array_equal(predicted(exported, observation, 0, 3), expected)
        (out / "pirl" / "tokenizer.json").unlink()
        with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
            load_policy(out)


def test_the_seed_and_the_chunk_fix_the_noise_and_nothing_else_does() -> None:
    policy = policy_of(small_policy(cameras=2))
    observation = random_observation(policy.flow, 2)
    first = predicted(policy, observation, 0, 5, 1)
    predicted(policy, observation, 1, 0, 0)
    np.testing.assert_array_equal(predicted(policy, observation, 0, 5, 1), first)
    assert first.shape == (4, 3)
    assert all(np.abs(predicted(policy, observation, 0, *other) - first).max() > 1e-3 for other in ((5, 2), (6, 1)))


FRAME = np.zeros((32, 32, 3), np.uint8)
GOOD: dict[str, Any] = {
    "images": {"camera0": FRAME, "camera1": FRAME},
    "state": [0.0] * 4,
    "instruction": "open the drawer",
}
BAD: dict[str, dict[str, Any]] = {
    "no image of camera camera1; there are camera0": {"images": {"camera0": FRAME}},
    "an array of uint8 is needed, not float32": {"images": {"camera0": FRAME.astype(np.float32), "camera1": FRAME}},
    "an array of uint8 is needed, not list": {"images": {"camera0": [[0]], "camera1": FRAME}},
    "shape (32, 32) is not (H, W, 3)": {"images": {"camera0": FRAME[..., 0], "camera1": FRAME}},
    "images of different sizes": {"images": {"camera0": FRAME[:16], "camera1": FRAME}},
    "shape (3,), the policy reads 4 numbers: state0, state1": {"state": [0.0] * 3},
    "state: state2 is not finite": {"state": [0.0, 0.0, 1e39, 0.0]},
    "state: numbers are needed": {"state": ["a"] * 4},
    "instruction: a text": {"instruction": b"open"},
}


@pytest.mark.parametrize("told", BAD)
def test_an_observation_that_cannot_be_read_is_told(told: str) -> None:
    policy = policy_of(small_policy(cameras=2))
    with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is compared below
        policy.predict(**(GOOD | BAD[told]))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_channels_may_come_first() -> None:
    """ALOHA's clients send them so."""
    policy = policy_of(small_policy(cameras=1))
    frame = random_observation(policy.flow, 1).images[0, 0]
    upright = policy.predict({"camera0": frame}, [0.0] * 4, "open the drawer")
    turned = policy.predict({"camera0": frame.transpose(2, 0, 1)}, [0.0] * 4, "open the drawer")
    np.testing.assert_array_equal(upright, turned)
