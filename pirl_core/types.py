"""The data that crosses module borders, batched over environments.

Axes: B environments (or samples), C cameras, H W image pixels, S state numbers, R executed actions,
A action numbers; T frames of an episode.
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


class DemoEpisode(NamedTuple):
    """An episode frame by frame, of an expert, of a dataset, or of a policy.

    instruction: the sentence. seed: of the environment. failures: attempts that failed before this one.
    images: (T, C, H, W, 3) uint8. state: (T, S) float32, the simulator's whole state; its first numbers are
    proprioception. actions: (T, A) float32. rewards: (T,) float32. success: (T,) bool, after the action.
    """

    task: str
    instruction: str
    seed: int
    failures: int
    images: np.ndarray
    state: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    success: np.ndarray
