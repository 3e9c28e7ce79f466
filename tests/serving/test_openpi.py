"""openpi's own client."""

import numpy as np
import pytest

from pirl_core.errors import UserError
from pirl_core.policy.interface import Interface
from pirl_core.serving import openpi, websocket
from pirl_core.serving.keys import keys_for
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation
from tests.serving.running import LIBERO, dial, openpi_client, openpi_message, policy_of, predicted, row, running
from tests.worlds import INSTRUCTIONS, random_observation, small_policy


def test_openpi_s_client_gets_the_evaluation_s_chunks(policy: Policy, seen: Observation) -> None:
    with running(policy, openpi, websocket) as (server, port):
        client = openpi_client(port)
        hello = client.get_server_metadata()
        assert (hello["policy"], hello["chunk"], hello["action"]) == ("tiny", 4, LIBERO.action)
        assert hello["cameras"] == {"agentview": "observation/image", "eye_in_hand": "observation/wrist_image"}
        for seed, decision in ((7, 0), (7, 1), (9, 0), (7, 0)):
            answer = client.infer(openpi_message(seen, seed, seed=seed))
            np.testing.assert_array_equal(answer["actions"], predicted(policy, seen, seed, seed, decision))
            assert answer["server_timing"]["infer_ms"] > 0
        answer = client.infer(openpi_message(seen, 3, seed=2, decision=5))
        np.testing.assert_array_equal(answer["actions"], predicted(policy, seen, 3, 2, 5))
        assert (server.counters.answers, server.counters.refusals) == (5, 0)


def test_without_a_seed_a_connection_has_a_stream_of_its_own(policy: Policy, seen: Observation) -> None:
    """The same one for every connection, whoever came before; another server seed is another."""
    chunks = []
    for seed in (0, 0, 1):
        with running(policy, openpi, websocket, seed=seed) as (_, port):
            for client in (openpi_client(port), openpi_client(port)):
                chunks.append([client.infer(openpi_message(seen, 0))["actions"] for _ in range(3)])
    for same in chunks[1:4]:
        np.testing.assert_array_equal(same, chunks[0])
    assert np.abs(chunks[0][0] - chunks[0][1]).max() > 1e-3
    assert np.abs(np.array(chunks[4]) - chunks[0]).max() > 1e-3
    # None is that of an evaluation, whatever its episode's seed.
    assert all(np.abs(predicted(policy, seen, 0, 0, n) - chunks[0][n]).max() > 1e-3 for n in range(3))


def test_a_mistake_is_told_in_openpi_s_form(policy: Policy, seen: Observation) -> None:
    good = openpi_message(seen, 0)
    mistakes = {
        "nothing at observation/state; the message has observation/image, observation/wrist_image, prompt": {
            name: value for name, value in good.items() if name != "observation/state"
        },
        "image of camera agentview: shape (32, 32)": good | {"observation/image": np.zeros((32, 32), np.uint8)},
        "state: shape (5,), the policy reads 4 numbers: a, b, c, d": good | {"observation/state": np.zeros(5)},
        "seed = -1: must be a whole number": good | {"seed": -1},
        "list instead of a map": [good],
    }
    with running(policy, openpi, websocket) as (server, port):
        for told, message in mistakes.items():
            client = openpi_client(port)
            with pytest.raises(RuntimeError) as error:
                client.infer(message)
            text = str(error.value).removeprefix("Error in inference server:\n")
            assert text.startswith(told) and "\n" not in text and "Traceback" not in text
            with pytest.raises(Exception, match="1011"):
                client.infer(good)
        assert server.counters.refusals == len(mistakes)
        with dial(port) as raw:
            raw.recv()
            raw.send("text")
            assert raw.recv() == "a text frame; an observation is a binary one, in msgpack"


def test_keys_of_one_s_own(policy: Policy, seen: Observation) -> None:
    """ALOHA's nested map of images, channels first, and a state in two parts."""
    images, state, instruction = row(seen, 0)
    turned = {"cam_high": images[0].transpose(2, 0, 1), "cam_low": images[1].transpose(2, 0, 1)}
    message = {"images": turned, "joints": state[:3], "gripper": state[3], "prompt": instruction, "seed": 1}
    pairs = ("agentview=images/cam_high", "eye_in_hand=images/cam_low", "state=joints,gripper")
    with running(policy, openpi, websocket, preset="aloha", pairs=pairs) as (_, port):
        answer = openpi_client(port).infer(message)
    np.testing.assert_array_equal(answer["actions"], predicted(policy, seen, 0, 1))


def droid_policy(state: int, action: int, cameras: list[str]) -> Policy:
    flow = small_policy(cameras=len(cameras), state_dim=state, action_dim=action)
    names = [f"state{number}" for number in range(state)], [f"action{number}" for number in range(action)]
    flow.interface = Interface("", cameras, *names, None, INSTRUCTIONS)
    return policy_of(flow)


@pytest.mark.parametrize("cameras", [["front", "wrist"], ["wrist_image_left", "exterior_image_1_left"]])
def test_a_client_of_droid_needs_no_map(cameras: list[str]) -> None:
    """Whatever the policy's cameras are called, in whatever order."""
    policy = droid_policy(8, 8, cameras)
    images, state, instruction = row(random_observation(policy.flow, 1), 0)
    wrist = next(number for number, name in enumerate(cameras) if "wrist" in name)
    message = {
        "observation/exterior_image_1_left": images[1 - wrist],
        "observation/wrist_image_left": images[wrist],
        "observation/joint_position": state[:7],
        "observation/gripper_position": state[7:],
        "prompt": instruction,
        "seed": 1,
    }
    with running(policy, openpi, websocket, preset="droid") as (_, port):
        answer = openpi_client(port).infer(message)
    expected = policy.predict(dict(zip(cameras, images, strict=True)), state, instruction, 1, 0)
    np.testing.assert_array_equal(answer["actions"], expected)


@pytest.mark.parametrize(
    ("policy", "told"),
    [
        ((7, 8, ["front"]), r"that robot has 8 numbers \(7 joints, 1 gripper\), the policy reads 7 \(state0, "),
        ((8, 7, ["front"]), ".*, the policy moves 7 "),
        ((8, 8, ["front", "side"]), "gives no place for camera front of the policy"),
    ],
)
def test_another_robot_than_droid_s_is_told(policy: tuple[int, int, list[str]], told: str) -> None:
    with pytest.raises(UserError, match=f"--keys droid: {told}"):
        keys_for(droid_policy(*policy).interface, "openpi", "droid", [])
