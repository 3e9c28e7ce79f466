"""A server in a thread of the test's own process, and what the tests of all protocols ask of it."""

import asyncio
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from websockets.sync.client import connect

from pirl_core.evaluation.players import deterministic
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.policy.interface import Interface
from pirl_core.serving import packing
from pirl_core.serving.keys import keys_for
from pirl_core.serving.policy import Policy, unnamed
from pirl_core.serving.protocol import Served
from pirl_core.serving.server import Address, Limits, Server
from pirl_core.types import Observation
from tests.worlds import INSTRUCTIONS, small_policy

LIBERO = Interface("libero", ["agentview", "eye_in_hand"], list("abcd"), ["dx", "dy", "grip"], 20, INSTRUCTIONS)
LIMITS = Limits(message=2**20, clients=64, seconds=30.0, batch=64)


def policy_of(flow: FlowPolicy) -> Policy:
    return Policy(flow, flow.interface or unnamed(flow), deterministic(flow))


def libero_policy() -> Policy:
    """Small, random, and by its interface LIBERO's."""
    torch.set_num_threads(1)
    flow = small_policy(cameras=2)
    flow.interface = LIBERO
    return policy_of(flow)


@contextmanager
def running(
    policy: Policy,
    wire: Any,
    transport: Any,
    limits: Limits = LIMITS,
    seed: int = 0,
    key: str | None = None,
    preset: str | None = None,
    pairs: tuple[str, ...] = (),
) -> Iterator[tuple[Server, int]]:
    """Gives the server and its port; it has stopped when the block has ended, with nobody connected."""
    name = wire.__name__.rpartition(".")[2]
    served = Served(policy, keys_for(policy.interface, name, preset, pairs), "tiny")
    loop, listening = asyncio.new_event_loop(), threading.Event()
    found: dict[str, Any] = {}

    async def serve() -> None:
        found["server"], found["stop"] = Server(served, wire, limits, seed, key), asyncio.Event()

        def ready(at: Address) -> None:
            found["port"] = at.port
            listening.set()

        try:
            await transport.run(found["server"], Address("127.0.0.1", 0), ready, found["stop"])
        finally:
            listening.set()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert listening.wait(30)
    try:
        yield found["server"], found["port"]
    finally:
        loop.call_soon_threadsafe(found["stop"].set)
        thread.join(60)
        assert not thread.is_alive()
        loop.close()


def row(observation: Observation, index: int) -> tuple[list[np.ndarray], np.ndarray, str]:
    """Images of all cameras, state and instruction of one row."""
    return list(observation.images[index]), observation.state[index], observation.instructions[index]


def predicted(policy: Policy, observation: Observation, index: int, seed: int, decision: int = 0) -> np.ndarray:
    """What the notebook's call gives for one row."""
    images, state, instruction = row(observation, index)
    named = dict(zip(policy.interface.cameras, images, strict=True))
    return policy.predict(named, state, instruction, seed, decision)


def openpi_message(observation: Observation, index: int, **more: Any) -> dict[str, Any]:
    """As openpi's LIBERO client writes it."""
    images, state, instruction = row(observation, index)
    keys = ("observation/image", "observation/wrist_image", "observation/state", "prompt")
    return dict(zip(keys, (*images, state, instruction), strict=True)) | more


def vla_eval_message(observation: Observation, index: int) -> dict[str, Any]:
    """As vla-eval's LIBERO benchmark writes it."""
    images, state, instruction = row(observation, index)
    named = dict(zip(("agentview", "wrist"), images, strict=True))
    return {"images": named, "states": state.astype(float), "task_description": instruction}


def openpi_client(port: int, key: str | None = None) -> Any:
    client = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    return client.WebsocketClientPolicy("127.0.0.1", port, key)


def dial(port: int, user: str = "", **options: Any) -> Any:
    """A bare websocket. user: ``any:KEY@``."""
    return connect(f"ws://{user}127.0.0.1:{port}", compression=None, **options)


def chunk_of(answer: Any) -> np.ndarray:
    """Actions of openpi's answer."""
    found: np.ndarray = packing.unpack(answer, packing.bytes_keys)["actions"]
    return found


def close(actual: Any, expected: np.ndarray) -> None:
    """A batch of another size adds in another order."""
    np.testing.assert_allclose(actual, expected, atol=2e-5)


def driven(python: str, script: str, port: int, shown: dict[str, np.ndarray], argument: str, folder: Path) -> Any:
    """What a protocol's own client prints last, run in another Python by the script beside this. shown: what it
    sends, by name."""
    np.savez(folder / "seen.npz", **shown)
    command = [python, str(Path(__file__).with_name(script)), str(port), str(folder / "seen.npz"), argument]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    begun = time.monotonic()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=folder, env=environment
    )
    assert done.returncode == 0, (time.monotonic() - begun, done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])
