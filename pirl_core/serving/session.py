"""Whose noise is next: one stream a connection, so that nobody's actions depend on who else is there."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

IDLE_SECONDS = 60
T = TypeVar("T")


@dataclass
class Session:
    """A connection. seed: of its episodes; episode: how many it began before this one; own: the seed that the client
    gave this episode, which then alone counts, as in an evaluation. decision: number of the next chunk. waiting:
    actions (A,) of the last chunk that were not sent yet, where a protocol sends one at a time."""

    seed: int
    episode: int = 0
    own: int | None = None
    decision: int = 0
    waiting: deque[np.ndarray] = field(default_factory=deque)

    def begin(self, own: int | None = None) -> None:
        """Another episode, with a seed of the client's own where it gives one."""
        self.episode += 1
        self.own, self.decision = own, 0
        self.waiting.clear()

    def key(self, own: int | None = None, decision: int | None = None) -> tuple[int, ...]:
        """Of the start noise of the next chunk: (seed, episode, decision), or (own, decision) as in an evaluation.

        own, decision: where the client names them with its observation; another seed is another episode. The chunk
        counts once it is ``answered``: an overloaded server changes nobody's noise.
        """
        if own is not None and own != self.own:
            self.begin(own)
        if decision is not None:
            self.decision = decision
        return (self.seed, self.episode, self.decision) if self.own is None else (self.own, self.decision)

    def answered(self) -> None:
        self.decision += 1


@dataclass
class Sessions(Generic[T]):
    """Where a transport does not tell that a client has left: what is kept of each, by what the transport calls it.

    new: makes it of a client not seen before. most: clients at once; another takes the place of the one that has been
    silent for longest, if that was a minute or more.
    """

    new: Callable[[], T]
    most: int
    known: OrderedDict[object, tuple[T, float]] = field(default_factory=OrderedDict)

    def of(self, client: object) -> T | None:
        """None where there is no place for it."""
        now = time.monotonic()
        if client in self.known:
            kept = self.known.pop(client)[0]
        else:
            if len(self.known) >= self.most:
                oldest, (_, seen) = next(iter(self.known.items()))
                if now - seen < IDLE_SECONDS:
                    return None
                del self.known[oldest]
            kept = self.new()
        self.known[client] = kept, now
        return kept
