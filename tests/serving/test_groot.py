"""Isaac-GR00T's clients, which no registry has: their side of the wire is written out here from their sources, and the
real one is driven where a Python has it."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from pirl_core.serving import groot, zeromq
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation
from tests.serving.running import LIBERO, LIMITS, close, driven, predicted, row, running
from tests.serving.test_websocket import mutated


def encode(value: Any) -> Any:
    stored = io.BytesIO()
    np.save(stored, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": stored.getvalue()}


def decode(found: dict[str, Any]) -> Any:
    return np.load(io.BytesIO(found["as_npy"]), allow_pickle=False) if "__ndarray_class__" in found else found


@contextmanager
def client(port: int, token: str | None = None) -> Iterator[Any]:
    """Gives the function that asks an endpoint."""
    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.set(zmq.LINGER, 0)
        socket.set(zmq.RCVTIMEO, 30_000)
        socket.connect(f"tcp://127.0.0.1:{port}")

        def ask(endpoint: str, data: dict[str, Any] | None = None) -> Any:
            request = {"endpoint": endpoint, "data": data, **({} if token is None else {"api_token": token})}
            socket.send(msgpack.packb(request, default=encode))
            return msgpack.unpackb(socket.recv(), object_hook=decode)

        yield ask


def nested(observation: Observation, index: int) -> dict[str, Any]:
    """Of N1.6 and N1.7, with two frames of which the older is another."""
    images, state, instruction = row(observation, index)
    return {
        "video": {name: np.stack([255 - i, i])[None] for name, i in zip(LIBERO.cameras, images, strict=True)},
        "state": {name: np.array([[[9], [x]]], np.float32) for name, x in zip(LIBERO.state, state, strict=True)},
        "language": {"task": [[instruction]]},
    }


def flat(observation: Observation, index: int) -> dict[str, Any]:
    """Of N1.5."""
    images, state, instruction = row(observation, index)
    return {
        **{f"video.{name}": image[None] for name, image in zip(LIBERO.cameras, images, strict=True)},
        **{f"state.{name}": np.array([[x]]) for name, x in zip(LIBERO.state, state, strict=True)},
        "annotation.human.action.task_description": [instruction],
    }


def test_both_forms_of_client_get_the_evaluation_s_chunks(policy: Policy, seen: Observation) -> None:
    with running(policy, groot, zeromq) as (_, port), client(port) as ask:
        assert ask("ping") == {"status": "ok", "message": "Server is running"}
        for seed in (3, 4):
            assert ask("reset", {"options": {"seed": seed}}) == {}
            for decision in (0, 1):
                action, info = ask("get_action", {"observation": nested(seen, decision), "options": None})
                assert info == {} and list(action) == LIBERO.action
                assert {(part.shape, part.dtype) for part in action.values()} == {((1, 4, 1), np.dtype(np.float32))}
                columns = np.concatenate([part[0] for part in action.values()], -1)
                np.testing.assert_array_equal(columns, predicted(policy, seen, decision, seed, decision))
        assert ask("reset", {"options": {"seed": 5}}) == {}
        action = ask("get_action", flat(seen, 1))
        assert list(action) == [f"action.{name}" for name in LIBERO.action]
        np.testing.assert_array_equal(np.concatenate(list(action.values()), -1), predicted(policy, seen, 1, 5))
        modalities = {name: config["as_json"] for name, config in ask("get_modality_config").items()}
        assert modalities["video"] == {"delta_indices": [0], "modality_keys": LIBERO.cameras}
        assert modalities["action"] == {"delta_indices": [0, 1, 2, 3], "modality_keys": LIBERO.action}
        assert modalities["state"]["modality_keys"] == LIBERO.state
        assert modalities["language"]["modality_keys"] == ["task"]


def test_a_mistake_is_told_in_groot_s_form(policy: Policy, seen: Observation) -> None:
    good = nested(seen, 0)
    mistakes: dict[str, tuple[str, Any]] = {
        "nothing at state/a; the message has language, video": (
            "get_action",
            {"observation": {name: good[name] for name in ("video", "language")}},
        ),
        "agentview: the axis of environments must have one": (
            "get_action",
            {"observation": good | {"video": {"agentview": np.zeros((2, 1, 8, 8, 3), np.uint8)}}},
        ),
        "video.agentview: an axis of time is needed": ("get_action", {"video.agentview": 3}),
        "endpoint 'fly': there are ping": ("fly", None),
        "kill: this server is stopped where it was started": ("kill", None),
        "seed = 'x': must be a whole number": ("reset", {"options": {"seed": "x"}}),
        "data: int instead of a map": ("reset", 3),
    }
    with running(policy, groot, zeromq) as (server, port), client(port) as ask:
        for told, (endpoint, data) in mistakes.items():
            answer = ask(endpoint, data)
            assert list(answer) == ["error"] and answer["error"].startswith(told) and "\n" not in answer["error"]
        assert server.counters.refusals == len(mistakes)
        assert ask("ping")["status"] == "ok"


def test_who_shows_no_token_is_not_served(policy: Policy) -> None:
    with running(policy, groot, zeromq, key="s3cret") as (_, port):
        for token in (None, "wrong"):
            with client(port, token) as ask:
                assert ask("ping") == {"error": "Unauthorized: Invalid API token"}
        with client(port, "s3cret") as ask:
            assert ask("ping")["status"] == "ok"


def test_clients_at_once_lose_nothing_and_one_too_many_is_told(policy: Policy, seen: Observation) -> None:
    failures: list[str] = []
    together = threading.Barrier(20)

    def work(port: int, index: int) -> None:
        try:
            with client(port) as ask:
                ask("reset", {"options": {"seed": index}})
                together.wait(60)
                for decision in range(2):
                    action, _ = ask("get_action", {"observation": nested(seen, index)})
                    columns = np.concatenate([part[0] for part in action.values()], -1)
                    close(columns, predicted(policy, seen, index, index, decision))
        except BaseException as error:
            failures.append(f"{index}: {error!r}")

    with running(policy, groot, zeromq, LIMITS._replace(clients=20)) as (server, port):
        threads = [threading.Thread(target=work, args=(port, index)) for index in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert server.counters.rows == 40 and server.counters.forwards < 40
        with client(port) as ask:
            assert ask("ping") == {"error": "20 clients are connected, and no more are let in"}


def test_a_thousand_malformed_requests(policy: Policy, seen: Observation) -> None:
    rng = np.random.default_rng(0)
    small = seen._replace(images=seen.images[:, :, :1, :1])
    good = msgpack.packb({"endpoint": "get_action", "data": flat(small, 0)}, default=encode)
    refused = 0
    with running(policy, groot, zeromq) as (server, port):
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVTIMEO, 30_000)
            socket.connect(f"tcp://127.0.0.1:{port}")
            for _ in range(1000):
                socket.send(mutated(good, rng))
                answer = msgpack.unpackb(socket.recv(), object_hook=decode)
                refused += "error" in answer
                assert "own log" not in str(answer.get("error", "")) and "\n" not in str(answer.get("error", ""))
        assert server.counters.refusals == refused > 500
        # Whoever sends no request at all is heard by nobody, and hurts nobody.
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.set(zmq.LINGER, 0)
            socket.connect(f"tcp://127.0.0.1:{port}")
            socket.send_multipart([b"x", b"y", good])
            socket.send(good)
        with client(port) as ask:
            assert len(ask("get_action", flat(seen, 0))) == 3


@pytest.mark.skipif(
    "GROOT_PYTHON" not in os.environ,
    reason="GROOT_PYTHON names no Python that has the repository Isaac-GR00T installed",
)
def test_isaac_groot_s_own_client_gets_the_evaluation_s_chunks(
    policy: Policy, seen: Observation, tmp_path: Path
) -> None:
    images, state, instruction = row(seen, 1)
    shown = dict(zip(LIBERO.cameras, images, strict=True))
    shown |= {"state": state, "task": np.array(instruction)}
    with running(policy, groot, zeromq) as (_, port):
        told = driven(os.environ["GROOT_PYTHON"], "groot_client.py", port, shown, "3", tmp_path)
    wanted = {"video": LIBERO.cameras, "state": LIBERO.state, "action": LIBERO.action, "language": ["task"]}
    assert told["keys"] == wanted
    for decision, chunk in enumerate(told["actions"]):
        close(np.array(chunk), predicted(policy, seen, 1, 3, decision))
    assert "nothing at video/" in told["refused"]
