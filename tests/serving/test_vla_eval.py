"""vla-eval's own client."""

import asyncio
from typing import Any

import msgpack
import numpy as np
import pytest

from pirl_core.serving import vla_eval, websocket
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation
from tests.serving.running import dial, predicted, running, vla_eval_message


def conversation(policy: Policy, talk: Any, **options: Any) -> Any:
    """What ``talk(connection)`` returns, with vla-eval's own connection."""
    connection = pytest.importorskip("vla_eval.connection", reason="vla-eval is not installed")

    async def session(port: int) -> Any:
        async with connection.Connection(f"ws://127.0.0.1:{port}") as opened:
            return await talk(opened)

    with running(policy, vla_eval, websocket, **options) as (_, port):
        return asyncio.run(session(port))


def test_vla_eval_s_client_gets_one_action_after_another(policy: Policy, seen: Observation) -> None:
    async def talk(connection: Any) -> tuple[list[np.ndarray], dict[str, Any]]:
        actions = []
        for seed in (3, 8):
            await connection.start_episode({"task": {"name": "x", "seed": seed}})
            # The chunk's first observation decides; six steps begin a second chunk and leave it unfinished.
            for step in range(6):
                actions.append((await connection.act(vla_eval_message(seen, seed + step)))["actions"])
            await connection.end_episode({"metrics": {"success": True}})
        return actions, connection.server_info

    actions, hello = conversation(policy, talk)
    for index, seed in enumerate((3, 8)):
        chunks = [predicted(policy, seen, seed, seed, 0), predicted(policy, seen, seed + 4, seed, 1)[:2]]
        np.testing.assert_array_equal(actions[6 * index : 6 * index + 6], np.concatenate(chunks))
    assert hello["protocol_version"] == 1 and hello["model_server"] == "tiny"
    assert hello["observation_params"] == {"send_wrist_image": True, "send_state": True}


def test_vla_eval_finds_libero_s_conventions_in_agreement(policy: Policy) -> None:
    """Its own check of what server and benchmark declare; it warns of a gripper that closes the other way."""
    specs = pytest.importorskip("vla_eval.specs", reason="vla-eval is not installed")

    async def talk(connection: Any) -> dict[str, Any]:
        return dict(connection.server_info)

    hello = conversation(policy, talk)
    ours = [
        {name: specs.DimSpec.from_dict(spec) for name, spec in hello[kind].items()}
        for kind in ("action_spec", "observation_spec")
    ]
    action = {"position": specs.POSITION_DELTA, "rotation": specs.ROTATION_AA, "gripper": specs.GRIPPER_CLOSE_POS}
    observation = {
        "agentview": specs.IMAGE_RGB,
        "wrist": specs.IMAGE_RGB,
        "state": specs.STATE_EEF_POS_AA_GRIP,
        "language": specs.LANGUAGE,
    }
    assert specs.check_specs(ours[0], action, ours[1], observation) == []
    assert len(specs.check_specs(ours[0], action | {"gripper": specs.GRIPPER_CLOSE_NEG}, ours[1], observation)) == 1


def test_vla_eval_s_runner_plays_an_episode(policy: Policy, seen: Observation) -> None:
    """Its synchronous runner on a small benchmark, whose task has a seed."""
    runner = pytest.importorskip("vla_eval.runners.sync_runner", reason="vla-eval is not installed")
    from vla_eval.benchmarks.base import StepBenchmark, StepResult

    class Looks(StepBenchmark):
        executed: list[np.ndarray]

        def get_tasks(self) -> list[dict[str, Any]]:
            return [{"name": "look", "seed": 5}]

        def reset(self, task: Any) -> int:
            self.executed = []
            return 0

        def step(self, action: Any) -> Any:
            self.executed.append(action["actions"])
            return StepResult(len(self.executed), 0.0, len(self.executed) == 6, {})

        def make_obs(self, raw_obs: int, task: Any) -> dict[str, Any]:
            return vla_eval_message(seen, raw_obs)

        def check_done(self, step_result: Any) -> bool:
            return bool(step_result.done)

        def get_step_result(self, step_result: Any) -> dict[str, Any]:
            return {"success": True}

        def get_action_spec(self) -> dict[str, Any]:
            return {}

        def get_observation_spec(self) -> dict[str, Any]:
            return {}

    benchmark = Looks()

    async def talk(connection: Any) -> Any:
        return await runner.SyncEpisodeRunner().run_episode(benchmark, benchmark.get_tasks()[0], connection)

    result = conversation(policy, talk)
    assert result["steps"] == 6 and result["metrics"] == {"success": True}
    chunks = [predicted(policy, seen, 0, 5, 0), predicted(policy, seen, 4, 5, 1)[:2]]
    np.testing.assert_array_equal(benchmark.executed, np.concatenate(chunks))


def test_a_mistake_is_told_in_vla_eval_s_form_and_the_connection_stays(policy: Policy, seen: Observation) -> None:
    async def talk(connection: Any) -> list[str]:
        told = []
        for message in ({}, vla_eval_message(seen, 0) | {"states": [1.0]}):
            with pytest.raises(RuntimeError) as error:
                await connection.act(message)
            told.append(str(error.value))
        await connection.act(vla_eval_message(seen, 0))
        return told

    told = conversation(policy, talk)
    assert "observation_failed: nothing at images/agentview; the message has no keys" in told[0]
    assert "observation_failed: state: shape (1,), the policy reads 4 numbers" in told[1]


def test_another_version_of_vla_eval_is_told(policy: Policy) -> None:
    with running(policy, vla_eval, websocket) as (_, port), dial(port) as raw:
        for seq, payload in ((4, {"protocol_version": 2}), (5, {"protocol_version": 1})):
            raw.send(msgpack.packb({"type": "hello", "payload": payload, "seq": seq, "timestamp": 0.0}))
            answer = msgpack.unpackb(raw.recv())
            assert answer["seq"] == seq
            assert answer["type"] == ("error" if seq == 4 else "hello")
