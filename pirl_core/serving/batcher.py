"""What several clients ask, in one forward: it runs in a thread of its own, and what arrives meanwhile is the next.

Nothing waits for company, so a lone client waits for no clock. Rows of a forward are whoever's; each has its own noise.
"""

import asyncio
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pirl_core.evaluation.players import Player
from pirl_core.rl.rollout import concatenate
from pirl_core.serving.counters import Counters
from pirl_core.types import Observation


class Chunk(NamedTuple):
    """actions: (R, A). seconds: of the forward that it comes from."""

    actions: np.ndarray
    seconds: float


class _Asked(NamedTuple):
    observation: Observation
    key: tuple[int, ...]
    answer: "asyncio.Future[Chunk]"


class Batcher:
    """most: rows of a forward. With 1 an answer is bit for bit the same whoever else asks; sums of larger batches are
    rounded in another order."""

    def __init__(self, player: Player, most: int, counters: Counters) -> None:
        self.player = player
        self.most = most
        self.counters = counters
        self.waiting: deque[_Asked] = deque()
        self.arrived = asyncio.Event()

    async def ask(self, observation: Observation, key: tuple[int, ...]) -> Chunk:
        """For an observation of one row. Whoever no longer waits costs no forward."""
        answer: asyncio.Future[Chunk] = asyncio.get_running_loop().create_future()
        self.waiting.append(_Asked(observation, key, answer))
        self.arrived.set()
        return await answer

    async def run(self) -> None:
        """Answers until it is cancelled."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "forward") as thread:
            while True:
                await self.arrived.wait()
                batch = self._next()
                if batch:
                    results = await loop.run_in_executor(thread, self._play, batch)
                    for asked, result in zip(batch, results, strict=True):
                        if asked.answer.done():
                            continue
                        if isinstance(result, Exception):
                            asked.answer.set_exception(result)
                        else:
                            asked.answer.set_result(result)

    def _next(self) -> list[_Asked]:
        """Those who have waited longest, with images of one size."""
        batch: list[_Asked] = []
        rest: deque[_Asked] = deque()
        for asked in self.waiting:
            fits = not batch or asked.observation.images.shape == batch[0].observation.images.shape
            if asked.answer.done():
                continue
            (batch if fits and len(batch) < self.most else rest).append(asked)
        self.waiting = rest
        if not rest:
            self.arrived.clear()
        return batch

    def _play(self, batch: list[_Asked]) -> list[Chunk | Exception]:
        """In the thread. Where a forward fails each row is tried alone, so that one cannot fail the others."""
        try:
            begin = time.perf_counter()
            observation = concatenate([asked.observation for asked in batch])
            actions = self.player(observation, [asked.key for asked in batch])
            seconds = time.perf_counter() - begin
            self.counters.forward(len(batch), seconds)
            return [Chunk(part, seconds) for part in actions]
        except Exception as error:  # the network's, whatever it is: the loop must live, and its asker is told
            return [error] if len(batch) == 1 else [self._play([asked])[0] for asked in batch]
