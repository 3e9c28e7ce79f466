"""A curve as one number: (iteration, value) points of one training seed, in their order."""

from collections.abc import Callable, Sequence

import numpy as np

Points = Sequence[tuple[float, float]]
LAST = 0.1
"""The share of the points that `last` is the mean of: one iteration's rollouts are few."""
NEAR = 0.9
"""Of the way from the first value to the final one: from there on a curve counts as converged."""


def first(points: Points) -> float:
    return points[0][1]


def last(points: Points) -> float:
    """Mean of the last tenth, of one point at least."""
    return float(np.mean(_values(points)[-max(1, round(LAST * len(points))) :]))


def mean(points: Points) -> float:
    return float(np.mean(_values(points)))


def largest(points: Points) -> float:
    return float(np.max(_values(points)))


def reached(points: Points) -> float:
    """The first iteration at NEAR of what is gained, from `first` to `last`; nan where nothing is gained."""
    gained = last(points) - first(points)
    enough = first(points) + NEAR * gained
    return next((step for step, value in points if value >= enough), points[-1][0]) if gained > 0 else float("nan")


def dip(points: Points) -> float:
    """How far below its first value the curve ever falls."""
    return float(points[0][1] - np.min(_values(points)))


def jump(points: Points) -> float:
    """The largest rise from one point to the next; 0 where it never rises."""
    return float(max(0.0, *np.diff(_values(points)))) if len(points) > 1 else 0.0


REDUCERS: dict[str, Callable[[Points], float]] = {
    reducer.__name__: reducer for reducer in (first, last, mean, largest, reached, dip, jump)
}


def _values(points: Points) -> np.ndarray:
    return np.array([value for _, value in points])
