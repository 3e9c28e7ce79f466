"""Plays an evaluation by asking somebody else's server: one connection an episode, all of a decision asked at once.

Axes: B rows, H W pixels, S state numbers, R executed actions of a chunk, A action numbers.
"""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import numpy as np

from pirl_core.envs.conventions import Conventions
from pirl_core.errors import UserError
from pirl_core.evaluation.players import Player
from pirl_core.policy.interface import Interface
from pirl_core.serving.agreement import Greeting, executable, require_agreement
from pirl_core.serving.keys import Keys, find, put
from pirl_core.serving.line import Line, Target, dial
from pirl_core.types import Episode, Observation

Key = tuple[int, ...]
"""(episode seed, decision) of the start noise."""


class Tongue(Protocol):
    """A protocol from the client's side: ``ask_openpi``, ``ask_vla_eval``."""

    async def greet(self, line: Line) -> Greeting: ...

    async def begin(self, line: Line, task: Mapping[str, Any]) -> None: ...

    async def ask(self, line: Line, content: dict[str, Any], key: Key | None) -> object: ...


class Remote:
    """Connections to one server; a context manager. interface: what the benchmark shows and moves. conventions: None
    where it states none. replan: how many actions of a chunk are executed; None: all. greeting: of the server."""

    greeting: Greeting

    def __init__(
        self,
        target: Target,
        tongue: Tongue,
        keys: Keys,
        interface: Interface,
        conventions: Conventions | None,
        replan: int | None,
    ) -> None:
        self.target = target
        self.tongue = tongue
        self.keys = keys
        self.interface = interface
        self.conventions = conventions
        self.replan = replan
        self._runner = asyncio.Runner()
        self._free: list[Line] = []
        self._playing: dict[int, Line] = {}
        self._length: int | None = None

    @property
    def keyed(self) -> bool:
        """Whether the server draws the start noise that the evaluation would draw."""
        return self.greeting.about is not None

    def open(self, count: int) -> None:
        """Raises UserError where the server cannot be reached, or serves a policy for something else."""
        found = self._runner.run(_all([self._greeted() for _ in range(count)]))
        self._free = [line for line, _ in found]
        self.greeting = found[0][1]
        require_agreement(self.greeting, self.interface, self.conventions, self.target)

    def player(self, episodes: Sequence[Episode]) -> Player:
        """Of these episodes, no two of one seed. It raises UserError where the server fails or answers what cannot be
        executed."""
        known = {episode.seed: episode for episode in episodes}

        def act(observation: Observation, keys: Sequence[Key]) -> np.ndarray:
            playing = {key[0] for key in keys}
            for seed in self._playing.keys() - playing:
                self._free.append(self._playing.pop(seed))
            contents = [placed(observation, row, self.keys) for row in range(len(keys))]
            return self._runner.run(self._chunks(keys, contents, known))

        return act

    async def _greeted(self) -> tuple[Line, Greeting]:
        line = await dial(self.target)
        return line, await self.tongue.greet(line)

    async def _chunks(
        self, keys: Sequence[Key], contents: Sequence[dict[str, Any]], known: Mapping[int, Episode]
    ) -> np.ndarray:
        """(B, R, A)"""
        for seed, _ in keys:
            if seed not in self._playing:
                self._playing[seed] = self._free.pop()
        asked = [self._chunk(key, content, known[key[0]]) for key, content in zip(keys, contents, strict=True)]
        chunks = await _all(asked)
        lengths = {len(chunk) for chunk in chunks} | ({self._length} if self._length else set())
        if len(lengths) > 1:
            raise UserError(f"{self.target.shown}: chunks of {sorted(lengths)} actions; all must be of one length")
        self._length = lengths.pop()
        return np.stack(chunks)

    async def _chunk(self, key: Key, content: dict[str, Any], episode: Episode) -> np.ndarray:
        line = self._playing[key[0]]
        if key[1] == 0:
            named = {"name": find(content, self.keys.prompt), "suite": self.interface.benchmark, "task": episode.task}
            await self.tongue.begin(line, {**named, "seed": episode.seed, "episode": episode.number})
        found = await self.tongue.ask(line, content, key if self.keyed else None)
        first = self._length is None
        actions = executable(found, self.interface, self.conventions if first else None, self.target)
        if self.replan is not None and self.replan > len(actions):
            raise UserError(f"--replan {self.replan}: the server's chunks have {len(actions)} actions; give fewer")
        return actions[: self.replan]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(_all([line.close() for line in (*self._free, *self._playing.values())]))
        self._runner.close()


def placed(observation: Observation, row: int, keys: Keys) -> dict[str, Any]:
    """One row as the protocol's clients write it."""
    content: dict[str, Any] = {}
    for image, place in zip(observation.images[row], keys.cameras.values(), strict=True):
        put(content, place, image)
    put(content, keys.state[0], observation.state[row])
    put(content, keys.prompt, observation.instructions[row])
    return content


T = TypeVar("T")


async def _all(waiting: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Of each its result. Raises the first error, with the others cancelled."""
    tasks = [asyncio.ensure_future(each) for each in waiting]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
