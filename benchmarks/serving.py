"""What a server adds to a bare call of the policy, and how many observations it answers for several clients at once.

openpi's client and ``pirl serve`` in a process of its own, over loopback, with the images of openpi's LIBERO clients.
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Row, alternate, milliseconds, part_parser, run_part
from benchmarks.setting import laptop, random_policy
from pirl_core.policy.folder import save_policy
from pirl_core.serving import packing
from pirl_core.serving.policy import Policy, load_policy

PIXELS = 224
ADDED_MS = 3.0
CAMERAS = ["corner2", "corner3"]


@contextmanager
def listening(folder: Path, *words: str, **environment: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """``pirl serve`` once it listens, and its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pirl_core", "serve", str(folder), "--port", "0", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout
        told = next((line for line in process.stdout if line.startswith("serving ")), None)
        if told is None:
            raise RuntimeError(process.communicate()[1])
        yield process, int(told.partition("127.0.0.1:")[2].partition(";")[0])
    finally:
        if process.poll() is None:
            process.terminate()
            process.communicate()


def observation(policy: Policy, row: int) -> dict[str, Any]:
    """As openpi's client sends it."""
    rng = np.random.default_rng(row)
    images = {f"observation/{name}": rng.integers(0, 256, (PIXELS, PIXELS, 3), np.uint8) for name in CAMERAS}
    state = rng.standard_normal(len(policy.interface.state)).astype(np.float32)
    return {**images, "observation/state": state, "prompt": policy.interface.instructions[0], "seed": row}


def latency(policy: Policy, port: int, calls: int, rounds: int) -> Row:
    """A round is the median of so many calls, of either side in turn."""
    from openpi_client.websocket_client_policy import WebsocketClientPolicy

    client, message = WebsocketClientPolicy("127.0.0.1", port), observation(policy, 0)
    images = {name: message[f"observation/{name}"] for name in CAMERAS}
    bare: Callable[[], object] = partial(policy.predict, images, message["observation/state"], message["prompt"])
    sides: dict[str, Callable[[], object]] = {"served": partial(client.infer, message), "bare": bare}
    spent = alternate({name: partial(milliseconds, call, calls) for name, call in sides.items()}, rounds)
    added = statistics.median(s - b for s, b in zip(spent["served"], spent["bare"], strict=True))
    size = len(packing.pack(message, packing.with_bytes_keys)) / 1024
    beside = statistics.median(around_the_forward(client, message) for _ in range(calls))
    return Row(
        "`pirl serve`: latency that it adds to a bare call",
        f"{added:.2f} ms ({statistics.median(spent['served']):.2f} − {statistics.median(spent['bare']):.2f} ms)",
        f"≤ {ADDED_MS:g} ms",
        added <= ADDED_MS,
        f"openpi's client, two images of {PIXELS}², {size:.0f} KiB a message; medians of {calls} calls in "
        f"{rounds} rounds; {beside:.2f} ms of a call are outside of its forward",
    )


def around_the_forward(client: Any, message: dict[str, Any]) -> float:
    """Milliseconds of one call that the policy does not compute in: packing at both ends, the wire, the threads."""
    begin = time.perf_counter()
    answer = client.infer(message)
    return 1e3 * (time.perf_counter() - begin) - float(answer["policy_timing"]["infer_ms"])


async def answered(policy: Policy, port: int, clients: int, seconds: float) -> float:
    """Answers a second for so many clients, each of which asks again once it has its answer."""
    from websockets.asyncio.client import connect

    messages = [packing.pack(observation(policy, row), packing.with_bytes_keys) for row in range(clients)]
    count, end = 0, float("inf")

    async def ask(message: bytes) -> None:
        nonlocal count
        async with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None) as connection:
            await connection.recv()
            ready.release()
            await begun.wait()
            while time.perf_counter() < end:
                await connection.send(message)
                await connection.recv()
                count += 1

    begun, ready = asyncio.Event(), asyncio.Semaphore(0)
    asking = [asyncio.create_task(ask(message)) for message in messages]
    for _ in asking:
        await ready.acquire()
    begin = time.perf_counter()
    end = begin + seconds
    begun.set()
    await asyncio.gather(*asking)
    return count / (time.perf_counter() - begin)


def counted(port: int, name: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = dict(line.split() for line in answer.read().decode().splitlines() if not line.startswith("#"))
    return float(lines[f"pirl_serve_{name}_total"])


def throughput(policy: Policy, port: int, seconds: float) -> Row:
    rates, rows = {}, {}
    for clients in (1, 8, 50):
        before = [counted(port, name) for name in ("rows", "forwards")]
        rates[clients] = asyncio.run(answered(policy, port, clients, seconds))
        done = [counted(port, name) - old for name, old in zip(("rows", "forwards"), before, strict=True)]
        rows[clients] = done[0] / done[1]
    return Row(
        "`pirl serve`: answers a second for 1, 8, 50 clients at once",
        ", ".join(f"{rate:.0f}" for rate in rates.values()),
        "8 and 50 ≥ 1",
        min(rates[8], rates[50]) >= rates[1],
        f"rows of a forward: {', '.join(f'{mean:.1f}' for mean in rows.values())}; {seconds:g} s each, all clients in "
        "one process on the same cores",
    )


def rows(options: argparse.Namespace) -> list[Row]:
    run = laptop()
    seen = run._replace(env=run.env.model_copy(update={"cameras": CAMERAS}))
    with tempfile.TemporaryDirectory() as place:
        save_policy(random_policy(seen, run.policy), Path(place))
        policy = load_policy(place)
        with listening(Path(place)) as (_, port):
            return [latency(policy, port, options.calls, options.rounds), throughput(policy, port, options.seconds)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("serving", __doc__)
    add = parser.add_argument
    add("--calls", type=int, default=50, help="calls of a round")
    add("--rounds", type=int, default=7, help="rounds of each side")
    add("--seconds", type=float, default=10, help="of each number of clients")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
