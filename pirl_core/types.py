"""The data that crosses module borders, batched over environments.

Axes: B environments (or samples), C cameras, H W image pixels, S state numbers, R executed actions,
A action numbers.
"""

from typing import NamedTuple

import numpy as np


class Episode(NamedTuple):
    """Everything that fixes how an episode starts: the same episode always starts in the same simulator state.

    number: counts the episodes of a task, where the benchmark has a list of starts.
    """

    task: str
    seed: int
    shift: str = "none"
    number: int = 0


class Observation(NamedTuple):
    """What the policy sees before it chooses a chunk.

    images: (B, C, H, W, 3) uint8, upright; C may be 0 when the policy reads object state.
    state: (B, S) float32, raw simulator units (proprioception, then object state where asked for).
    instructions: B strings.
    """

    images: np.ndarray
    state: np.ndarray
    instructions: list[str]


class ChunkResult(NamedTuple):
    """What came of one executed chunk.

    observation: after the chunk; for an episode that ended by the time limit it is the final observation (needed for
        bootstrapping), for a terminated one its images are zeros (never used).
    reward: (B,) float32, sum over the executed steps. terminated, truncated: (B,) bool. steps: (B,) int64 executed.
    """

    observation: Observation
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    steps: np.ndarray
