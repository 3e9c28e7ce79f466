"""What a server on websockets must withstand, whichever protocol it speaks."""

import base64
import json
import socket
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import numpy as np
import pytest

from pirl_core.serving import openpi, packing, vla_eval, websocket
from pirl_core.serving.policy import Policy
from pirl_core.types import Observation
from tests.serving.running import (
    LIMITS,
    chunk_of,
    close,
    dial,
    openpi_client,
    openpi_message,
    predicted,
    running,
    vla_eval_message,
)


def test_fifty_clients_at_once_lose_nothing(policy: Policy, seen: Observation) -> None:
    """Each asks three times, with a seed of its own, and gets what it would get alone; most share forwards."""
    failures: list[str] = []

    def ask(port: int, index: int, together: threading.Barrier) -> None:
        try:
            with dial(port) as raw:
                raw.recv()
                together.wait(60)
                for decision in range(3):
                    raw.send(packing.pack(openpi_message(seen, index, seed=index), packing.with_bytes_keys))
                    found = chunk_of(raw.recv(60))
                    close(found, predicted(policy, seen, index, index, decision))
        except BaseException as error:
            failures.append(f"{index}: {error!r}")

    with running(policy, openpi, websocket) as (server, port):
        together = threading.Barrier(50)
        threads = [threading.Thread(target=ask, args=(port, index, together)) for index in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        counted = server.counters
        assert (counted.connections, counted.answers, counted.rows) == (50, 150, 150)
        assert counted.forwards < 100


def test_with_batches_of_one_company_changes_no_bit(policy: Policy, seen: Observation) -> None:
    with running(policy, openpi, websocket, LIMITS._replace(batch=1)) as (server, port):
        with dial(port) as one, dial(port) as other:
            for raw in (one, other):
                raw.recv()
            for index, raw in enumerate((one, other)):
                raw.send(packing.pack(openpi_message(seen, index, seed=1), packing.with_bytes_keys))
            for index, raw in enumerate((one, other)):
                found = chunk_of(raw.recv(60))
                np.testing.assert_array_equal(found, predicted(policy, seen, index, 1))
        assert server.counters.forwards == 2


def test_a_client_that_vanishes_disturbs_nobody(policy: Policy, seen: Observation) -> None:
    """Before, within and after its message, without a goodbye."""
    message = packing.pack(openpi_message(seen, 0), packing.with_bytes_keys)
    with running(policy, openpi, websocket) as (server, port):
        client = openpi_client(port)
        for part in (b"", message[: len(message) // 2], message):
            for _ in range(5):
                raw = dial(port)
                if part == message:
                    raw.send(part)
                elif part:
                    # The head of a frame of the whole message, masked with zeros, and half of it.
                    raw.socket.sendall(b"\x82\xfe" + len(message).to_bytes(2, "big") + bytes(4) + part)
                raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                raw.socket.shutdown(socket.SHUT_RDWR)
                raw.socket.close()
        close(client.infer(openpi_message(seen, 1, seed=1))["actions"], predicted(policy, seen, 1, 1))
        deadline = time.monotonic() + 20
        while server.counters.clients > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.counters.clients == 1
        assert server.busy == 0 and not server.batcher.waiting


def mutated(good: bytes, rng: np.random.Generator) -> bytes:
    """Cut, with other bytes, with bytes taken out or put in, or none of it; structure rather than pixels."""
    found = bytearray(good)
    kind = rng.integers(5)
    if kind == 0:
        return bytes(found[: rng.integers(len(found))])
    if kind == 1:
        return rng.bytes(int(rng.integers(200)))
    for _ in range(rng.integers(1, 8)):
        place = int(rng.integers(len(found)))
        if kind == 2:
            found[place] = rng.integers(256)
        elif kind == 3:
            del found[place : place + int(rng.integers(1, 9))]
        else:
            found[place:place] = rng.bytes(int(rng.integers(1, 9)))
    return bytes(found)


@pytest.mark.parametrize("wire", [openpi, vla_eval])
def test_a_thousand_malformed_messages(wire: Any, policy: Policy, seen: Observation) -> None:
    """Each is answered in the protocol's form, in one line, and the next client is served."""
    rng = np.random.default_rng(0)
    # One pixel a camera, so that most of a message is structure.
    small = seen._replace(images=seen.images[:, :, :1, :1])
    if wire is openpi:
        good = packing.pack(openpi_message(small, 0, seed=1, decision=2), packing.with_bytes_keys)
    else:
        content = {"type": "observation", "payload": vla_eval_message(small, 0), "seq": 1, "timestamp": 0.5}
        good = packing.pack(content, packing.with_text_keys)
    answered, refused = 0, 0
    with running(policy, wire, websocket) as (server, port):
        raw = None
        for _ in range(1000):
            if raw is None:
                raw = dial(port)
                if wire is openpi:
                    raw.recv()
            raw.send(mutated(good, rng))
            told = False
            if wire is openpi:
                answer = raw.recv(60)
                told = isinstance(answer, str)
                text = str(answer) if told else ""
            else:
                found = packing.unpack(raw.recv(60), packing.text_keys)
                told = found["type"] == "error"
                text = found["payload"]["error"] if told else ""
            assert "\n" not in text and "Traceback" not in text and "own log" not in text, text
            refused, answered = refused + told, answered + (not told)
            if told and wire is openpi:
                raw.close()
                raw = None
        assert (server.counters.refusals, server.counters.answers) == (refused, answered)
        assert refused > 500
        if raw is not None:
            raw.close()
        with dial(port) as raw:
            if wire is openpi:
                raw.recv()
            raw.send(good)
            assert packing.unpack(raw.recv(60), packing.bytes_keys)


def test_clients_that_ask_on_and_on_do_not_keep_a_server_that_is_to_stop(policy: Policy, seen: Observation) -> None:
    """It would wait for answers under way for ever, and each client hears that it goes."""
    ends: list[str] = []
    message = packing.pack(openpi_message(seen, 0), packing.with_bytes_keys)

    def ask(port: int, together: threading.Barrier) -> None:
        with dial(port) as raw:
            raw.recv()
            together.wait(60)
            try:
                while True:
                    raw.send(message)
                    raw.recv(60)
            except Exception as error:
                ends.append(str(error))

    together = threading.Barrier(4)
    with running(policy, openpi, websocket, LIMITS._replace(seconds=1e6)) as (_, port):
        threads = [threading.Thread(target=ask, args=(port, together)) for _ in range(3)]
        for thread in threads:
            thread.start()
        together.wait(60)
    for thread in threads:
        thread.join(60)
    assert len(ends) == 3 and all("1001" in end for end in ends), ends


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_and_metrics(policy: Policy, seen: Observation) -> None:
    with running(policy, openpi, websocket) as (_, port):
        openpi_client(port).infer(openpi_message(seen, 0))
        assert get(port, "/healthz") == (200, "OK\n")
        code, text = get(port, "/health")
        assert (code, json.loads(text)) == (200, {"status": "ok"})
        code, text = get(port, "/metrics")
        lines = dict(line.split() for line in text.splitlines() if not line.startswith("#"))
        assert (lines["pirl_serve_answers_total"], lines["pirl_serve_connections_total"]) == ("1", "1")
        assert float(lines["pirl_serve_answer_seconds_total"]) >= float(lines["pirl_serve_forward_seconds_total"]) > 0
        assert get(port, "/elsewhere")[0] in (400, 426)


def test_who_shows_no_key_is_not_served(policy: Policy, seen: Observation) -> None:
    with running(policy, openpi, websocket, key="s3cret") as (server, port):
        for key in (None, "wrong", "s3cret2", ""):
            with pytest.raises(Exception, match="401"):
                openpi_client(port, key)
        close(
            openpi_client(port, "s3cret").infer(openpi_message(seen, 0, seed=1))["actions"],
            predicted(policy, seen, 0, 1),
        )
        assert get(port, "/metrics") == (401, "wrong or no API key\n")
        assert get(port, "/metrics", Authorization="Bearer s3cret")[0] == 200
        basic = base64.b64encode(b"any:s3cret").decode()
        assert get(port, "/metrics", Authorization=f"Basic {basic}")[0] == 200
        assert get(port, "/metrics", Authorization="Basic ####")[0] == 401
        assert get(port, "/healthz") == (200, "OK\n")
        # vla-eval's client takes an address and nothing else.
        with dial(port, "any:s3cret@") as raw:
            raw.recv()
        assert server.counters.connections == 2


def test_a_message_too_long_and_a_client_too_many(policy: Policy, seen: Observation) -> None:
    with running(policy, openpi, websocket, LIMITS._replace(message=20_000, clients=2)) as (server, port):
        first, second = openpi_client(port), openpi_client(port)
        with pytest.raises(Exception, match="503"):
            openpi_client(port)
        with pytest.raises(Exception, match="1009"):
            first.infer(openpi_message(seen, 0, more=bytes(20_000)))
        second.infer(openpi_message(seen, 0))
        deadline = time.monotonic() + 20
        while server.counters.clients > 1 and time.monotonic() < deadline:
            time.sleep(0.02)
        openpi_client(port).infer(openpi_message(seen, 0))


def test_no_page_of_a_browser_is_served(policy: Policy) -> None:
    with running(policy, openpi, websocket) as (_, port), pytest.raises(Exception, match="403"):
        dial(port, origin="http://127.0.0.1:8000")


def test_an_answer_that_takes_too_long_is_told(policy: Policy, seen: Observation) -> None:
    held = threading.Event()

    def slow(observation: Observation, keys: Any) -> np.ndarray:
        held.wait(30)
        return policy.player(observation, keys)

    waiting = Policy(policy.flow, policy.interface, slow)
    with running(waiting, openpi, websocket, LIMITS._replace(seconds=3)) as (_, port):
        with pytest.raises(RuntimeError, match="no answer within 3 s; ask again"):
            openpi_client(port).infer(openpi_message(seen, 0))
        held.set()
        openpi_client(port).infer(openpi_message(seen, 0))


def test_a_row_that_fails_fails_alone(policy: Policy, seen: Observation, caplog: pytest.LogCaptureFixture) -> None:
    """The server's own mistake: its log has the traceback, the client one line, and whoever shared the forward his
    answer."""
    begun, held = threading.Event(), threading.Event()

    def fragile(observation: Observation, keys: Any) -> np.ndarray:
        begun.set()
        held.wait(30)
        if any(key[0] == 13 for key in keys):
            raise RuntimeError("the network broke")
        return policy.player(observation, keys)

    with running(Policy(policy.flow, policy.interface, fragile), openpi, websocket) as (server, port):
        clients = [dial(port) for _ in range(4)]
        for seed, raw in zip((1, 12, 13, 14), clients, strict=True):
            raw.recv()
            raw.send(packing.pack(openpi_message(seen, 0, seed=seed), packing.with_bytes_keys))
            # The first is computed alone while the others gather.
            assert begun.wait(30)
        deadline = time.monotonic() + 30
        while len(server.batcher.waiting) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        held.set()
        answers = [raw.recv(60) for raw in clients]
        for raw in clients:
            raw.close()
    assert answers[2] == "the server failed at it; its own log says why"
    for seed, answer in zip((1, 12, 14), (answers[0], answers[1], answers[3]), strict=True):
        close(chunk_of(answer), predicted(policy, seen, 0, seed))
    assert "the network broke" in caplog.text
