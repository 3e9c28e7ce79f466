"""LeRobot's asynchronous inference: its pickles, which run nothing here, and its own client where there is one."""

import os
import pickle
import pickletools
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch

from pirl_core.rl.rollout import take
from pirl_core.serving import grpc_calls, lerobot, unpickling
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation
from tests.serving.running import LIMITS, driven, row, running
from tests.serving.test_websocket import mutated

MESSAGES = grpc_calls.MESSAGES
MOTORS = ["a.pos", "b.pos", "c.pos", "d.pos"]
STATE = {"observation.state": {"dtype": "float32", "shape": (4,), "names": MOTORS}}


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Classes of the names and fields of lerobot 0.6.1, so that ``pickle.dumps`` makes what its clients send."""

    @dataclass
    class TimedObservation:
        timestamp: float
        timestep: int
        observation: dict[str, Any]
        must_go: bool = False

    @dataclass
    class TimedAction:
        timestamp: float
        timestep: int
        action: torch.Tensor

    @dataclass
    class RemotePolicyConfig:
        policy_type: str
        pretrained_name_or_path: str
        lerobot_features: dict[str, Any]
        actions_per_chunk: int
        device: str = "cpu"
        rename_map: dict[str, str] = field(default_factory=dict)

    module: Any = types.ModuleType(unpickling.HELPERS)
    for kind in (TimedObservation, TimedAction, RemotePolicyConfig):
        kind.__module__, kind.__qualname__ = unpickling.HELPERS, kind.__name__
        setattr(module, kind.__name__, kind)
    for name in ("lerobot", "lerobot.async_inference", unpickling.HELPERS):
        monkeypatch.setitem(sys.modules, name, module)
    return module


def raw(observation: Observation, index: int) -> dict[str, Any]:
    """What a robot of these motors and cameras gives."""
    images, state, instruction = row(observation, index)
    motors = dict(zip(MOTORS, state.tolist(), strict=True))
    return {**motors, "agentview": images[0], "eye_in_hand": images[1], "task": instruction}


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_their_pickles_are_read(protocol: int, theirs: Any) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    seen: dict[str, Any] = {
        "frame": frame, "turned": frame.transpose(1, 0, 2), "strided": frame[::2], "number": np.float32(2.5),
        "numbers": np.arange(3.0), "swapped": np.arange(3, dtype=">i4"), "columns": np.asfortranarray(np.ones((2, 3))),
        "plain": 1.5, "task": "open",
    }  # fmt: skip
    payload = pickle.dumps(theirs.TimedObservation(1.25, 7, seen, True), protocol)
    if protocol == 3:
        # As numpy 2 has it, which lerobot needs; in this protocol names are lines of text.
        payload = payload.replace(b"cnumpy.core.", b"cnumpy._core.")
        assert b"numpy._core" in payload
    found = unpickling.read(payload, unpickling.TimedObservation)
    assert (found["timestamp"], found["timestep"], found["must_go"]) == (1.25, 7, True)
    for name, value in seen.items():
        np.testing.assert_array_equal(found["observation"][name], value)
        assert np.asarray(found["observation"][name]).dtype == np.asarray(value).dtype
    setup = pickle.dumps(theirs.RemotePolicyConfig("pi0", "x", STATE, 10), protocol)
    assert lerobot.setup_of(setup) == (MOTORS, 10)


def test_our_pickles_are_theirs(theirs: Any) -> None:
    actions = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    payload = unpickling.timed_actions([(1.5 + n, 7 + n, action) for n, action in enumerate(actions)])
    found = pickle.loads(payload)
    assert [type(one) for one in found] == [theirs.TimedAction] * 4
    assert [(one.timestamp, one.timestep) for one in found] == [(1.5 + n, 7 + n) for n in range(4)]
    np.testing.assert_array_equal(torch.stack([one.action for one in found]), actions)


class Runs:
    """A pickle that would run something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.made = function, arguments

    def __reduce__(self) -> Any:
        return self.made


def hostile(theirs: Any, mark: Path) -> dict[str, bytes]:
    """By what is said to it."""
    named = b"\x80\x02c" + unpickling.HELPERS.encode() + b"\nTimedObservation"
    numeric: Any = np.core.numeric
    huge = Runs(numeric._frombuffer, b"0", np.dtype("u1"), (2**30, 2**30), "C")
    deep: Any = 1
    for _ in range(9):
        deep = [deep]
    return {
        "posix.system is not": pickle.dumps(theirs.TimedObservation(0.0, 0, {"x": Runs(os.system, f"touch {mark}")})),
        "builtins.eval is not": pickle.dumps(Runs(eval, f"open({str(mark)!r}, 'w')")),
        "builtins.getattr is not": pickle.dumps(Runs(getattr, "", "join")),
        "torch._utils._rebuild_tensor_v2 is not": pickle.dumps(torch.zeros(2)),
        "numpy.core.multiarray.fromfile is not": b"\x80\x02cnumpy.core.multiarray\nfromfile\n.",
        "helpers.TimedObservation.fields is not": named + b".fields\n.",
        "opcode INST is not allowed": b"(ios\nsystem\n.",
        "opcode EXT1 is not allowed": b"\x80\x02\x82\x01.",
        "opcode PERSID is not allowed": b"Pxy\n.",
        "a memo of 2147483646 entries": b"\x80\x02Nr\xfe\xff\xff\x7f.",
        "too many opcodes": b"\x80\x02" + b"N0" * 100_000 + b"N.",
        "shape (1073741824, 1073741824) does not fit 1 bytes": pickle.dumps(huge),
        "a dict instead of a TimedObservation": pickle.dumps({}),
        "too deep in one another": pickle.dumps(theirs.TimedObservation(0.0, 0, {"x": deep})),
        "not enough data": b"\x80\x04\x8c",
        "pickle of 0 bytes": b"",
    }


def test_nothing_in_a_pickle_runs(theirs: Any, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for told, payload in hostile(theirs, mark).items():
        with pytest.raises(ValueError) as error:  # noqa: PT011 - its text is compared below
            unpickling.read(payload, unpickling.TimedObservation)
        assert told in str(error.value) and "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize("state", [b"}X\x01\0\0\0xK\x01s", b"N}X\x01\0\0\0xK\x01s\x86"])
def test_nothing_that_is_allowed_can_be_changed(state: bytes) -> None:
    """An attribute set on it would be there for the next client; by either way in which pickle sets one."""
    for module, name in unpickling.ALLOWED:
        payload = b"\x80\x02c" + f"{module}\n{name}\n".encode() + state + b"b."
        with pytest.raises(ValueError, match=r"__setstate__\(\) missing 1 required positional argument"):
            unpickling.read(payload, unpickling.TimedObservation)
    assert not any(hasattr(kind, "x") for kind in unpickling.ALLOWED.values())


def test_a_thousand_malformed_pickles(theirs: Any, seen: Observation) -> None:
    """Read or refused in one line, and what is allowed is the same afterwards."""
    rng = np.random.default_rng(0)
    good = pickle.dumps(theirs.TimedObservation(0.5, 1, raw(seen._replace(images=seen.images[:, :, :1, :1]), 0)))
    assert {opcode.name for opcode, _, _ in pickletools.genops(good)} <= unpickling.OPCODES
    before = {name: (dict(vars(kind)), kind.__new__) for name, kind in unpickling.ALLOWED.items()}
    refused = read = 0
    for _ in range(1000):
        try:
            unpickling.read(mutated(good, rng), unpickling.TimedObservation)
        except ValueError as error:
            refused += "\n" not in str(error)
        else:
            read += 1
    assert refused > 500 and refused + read == 1000
    assert {name: (dict(vars(kind)), kind.__new__) for name, kind in unpickling.ALLOWED.items()} == before


class Calls:
    """The client's side, by the paths and messages of its service."""

    def __init__(self, port: int) -> None:
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}")

    def call(self, name: str, request: Any, answer: str = "Empty", stream: bool = False) -> Any:
        kind = self.channel.stream_unary if stream else self.channel.unary_unary
        method = kind(
            f"/transport.AsyncInference/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES[answer].FromString,
        )
        return method(request, timeout=60)

    def begin(self, setup: bytes) -> None:
        self.call("Ready", MESSAGES["Empty"]())
        self.call("SendPolicyInstructions", MESSAGES["PolicySetup"](data=setup))

    def observe(self, payload: bytes, piece: int = 2**21) -> None:
        parts = [payload[n : n + piece] for n in range(0, len(payload), piece)]
        states = [1, *[2] * (len(parts) - 2), 3] if len(parts) > 1 else [3]
        pieces = [
            MESSAGES["Observation"](transfer_state=state, data=part) for state, part in zip(states, parts, strict=True)
        ]
        self.call("SendObservations", iter(pieces), stream=True)

    def actions(self) -> list[Any]:
        data = self.call("GetActions", MESSAGES["Empty"](), "Actions").data
        return list(pickle.loads(data)) if data else []


def test_a_conversation(theirs: Any, policy: Policy, seen: Observation) -> None:
    """An observation in pieces, one whose step had its answer, one that must be answered all the same."""
    setup = pickle.dumps(theirs.RemotePolicyConfig("pi0", "x", STATE, 3))
    with running(policy, lerobot, grpc_calls, seed=9) as (server, port):
        calls = Calls(port)
        calls.begin(setup)
        for decision, (timestep, must_go) in enumerate([(0, False), (2, False), (2, True)]):
            calls.observe(pickle.dumps(theirs.TimedObservation(1.5, timestep, raw(seen, decision), must_go)), 4096)
            found = calls.actions()
            expected = policy.player(take(seen, np.array([decision])), [(9, 1, decision)])[0][:3]
            np.testing.assert_array_equal(torch.stack([one.action for one in found]), expected)
            assert [one.timestep for one in found] == [timestep, timestep + 1, timestep + 2]
            assert [one.timestamp for one in found] == [1.5, 1.55, 1.6]
        calls.observe(pickle.dumps(theirs.TimedObservation(1.5, 2, raw(seen, 3))))
        assert calls.actions() == []
        assert server.counters.rows == 3


def test_a_mistake_is_told_in_grpc_s_form(theirs: Any, policy: Policy, seen: Observation) -> None:
    good = pickle.dumps(theirs.TimedObservation(1.5, 0, raw(seen, 0)))
    setup = pickle.dumps(theirs.RemotePolicyConfig("pi0", "x", STATE, 3))
    with running(policy, lerobot, grpc_calls, LIMITS._replace(message=2 * len(good))) as (server, port):
        calls = Calls(port)
        with pytest.raises(grpc.RpcError, match="SendPolicyInstructions comes first"):
            calls.observe(good)
        calls.begin(setup)
        robot = {name: value for name, value in raw(seen, 0).items() if name != "c.pos"}
        mistakes = {
            "no number c.pos, which the client's features name": pickle.dumps(theirs.TimedObservation(1.5, 0, robot)),
            "an observation of more than": good * 3,
            "posix.system is not allowed here": pickle.dumps(Runs(os.system, "true")),
            "timestamp and timestep: ": pickle.dumps(theirs.TimedObservation("x", 0, raw(seen, 0))),
        }
        for told, payload in mistakes.items():
            with pytest.raises(grpc.RpcError) as error:
                calls.observe(payload)
            assert told in error.value.details() and "\n" not in error.value.details()
        with pytest.raises(grpc.RpcError, match="actions_per_chunk = 0"):
            calls.begin(pickle.dumps(theirs.RemotePolicyConfig("pi0", "x", STATE, 0)))
        calls.begin(setup)
        calls.observe(good)
        assert len(calls.actions()) == 3
        assert server.counters.refusals == len(mistakes) + 2


@pytest.mark.skipif(
    "LEROBOT_PYTHON" not in os.environ,
    reason="LEROBOT_PYTHON names no Python 3.12 that has lerobot[async,dataset]==0.6.1, which cannot be beside numpy 1",
)
def test_lerobot_s_own_client_executes_the_evaluation_s_chunks(
    policy: Policy, seen: Observation, tmp_path: Path
) -> None:
    """Of every chunk but the first it leaves out the first action, which is that of the step it has executed last."""
    images, state, instruction = row(seen, 0)
    shown = {"agentview": images[0], "eye_in_hand": images[1], "state": state, "task": np.array(instruction)}
    with running(policy, lerobot, grpc_calls) as (_, port):
        executed = np.array(driven(os.environ["LEROBOT_PYTHON"], "lerobot_client.py", port, shown, "10", tmp_path))
    chunks = [policy.player(take(seen, np.array([0])), [(0, 1, decision)])[0] for decision in range(3)]
    np.testing.assert_allclose(executed, np.concatenate([chunks[0], chunks[1][1:], chunks[2][1:]]), atol=1e-6)
