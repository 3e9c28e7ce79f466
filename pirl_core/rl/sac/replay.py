"""The last transitions that were played, to be drawn from at random.

Axes: N rows, S state numbers, R executed steps, D action numbers.
"""

from typing import NamedTuple

import numpy as np


class Transitions(NamedTuple):
    """One chunk a row. state, next_state: (N, S). action: (N, R, D) in (−1, 1). reward: (N,), summed over the chunk.
    terminated: (N,), 1 where nothing follows; a time limit is no such end. All float32."""

    state: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    next_state: np.ndarray
    terminated: np.ndarray


class Replay:
    """A ring of at most ``size`` rows: a new one takes the place of the oldest."""

    def __init__(self, size: int, state: int, action: tuple[int, int]) -> None:
        shapes: list[tuple[int, ...]] = [(state,), action, (), (state,), ()]
        self._rows = Transitions(*(np.zeros((size, *shape), np.float32) for shape in shapes))
        self._next = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, rows: Transitions) -> None:
        """In order, at most ``size`` of them."""
        count, size = len(rows.reward), len(self._rows.reward)
        places = (self._next + np.arange(count)) % size
        for kept, fresh in zip(self._rows, rows, strict=True):
            kept[places] = fresh
        self._next = (self._next + count) % size
        self._count = min(size, self._count + count)

    def draw(self, rng: np.random.Generator, count: int) -> Transitions:
        """``count`` rows, each any of them, with repetition."""
        rows = rng.integers(self._count, size=count)
        return Transitions(*(kept[rows] for kept in self._rows))

    def state(self) -> dict[str, np.ndarray]:
        """All rows from the oldest on, by name: what ``restore`` needs, and no empty place."""
        order = (self._next - self._count + np.arange(self._count)) % len(self._rows.reward)
        return {name: kept[order] for name, kept in self._rows._asdict().items()}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Into an empty ring of the same size; draws are those of the ring that ``state`` is of."""
        self.add(Transitions(**state))
