"""Episodes played in lockstep on the slots of a vector environment, one chunk a step.

Axes: B live slots, R executed steps, D action numbers, E episodes, N decisions of all episodes, flat and in order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np

from pirl_core.types import ChunkResult, Episode, Observation


class ChunkEnv(Protocol):
    """What a rollout asks of a vector environment; ``envs.vector.VectorEnv`` is one."""

    num_envs: int

    def reset(self, slots: list[int], episodes: list[Episode], /) -> Observation: ...

    def step(self, slots: list[int], actions: np.ndarray, /) -> ChunkResult: ...


class Step(NamedTuple):
    """One executed chunk. episode: index into the list played; decision: its number within the episode."""

    episode: int
    decision: int
    reward: float
    steps: int
    terminated: bool
    truncated: bool


Decide = Callable[[Observation, np.ndarray, np.ndarray], np.ndarray]
"""(observation of B slots, episode index (B,), decision number (B,)) → actions (B, R, D) in simulator units."""
AtTimeLimit = Callable[[Observation, np.ndarray, np.ndarray], Any]
"""Called with the final observations of episodes that the time limit ended, and their (episode, last decision)."""


def play(envs: ChunkEnv, episodes: list[Episode], decide: Decide, at_time_limit: AtTimeLimit | None) -> list[Step]:
    """Play every episode to its end. A slot that is done takes the next one, so no step after an end is simulated.

    Returns the steps sorted by (episode, decision).
    """
    waiting = list(range(len(episodes)))[::-1]
    count = min(envs.num_envs, len(episodes))
    slots = list(range(count))
    current = np.array([waiting.pop() for _ in slots])
    decision = np.zeros(count, np.int64)
    observation = envs.reset(slots, [episodes[index] for index in current])
    done_steps: list[Step] = []
    while slots:
        actions = decide(observation, current, decision)
        result = envs.step(slots, actions)
        ended = result.terminated | result.truncated
        done_steps += steps_of(current, decision, result)
        limit = np.flatnonzero(result.truncated & ~result.terminated)
        if len(limit) and at_time_limit is not None:
            at_time_limit(take(result.observation, limit), current[limit], decision[limit])
        decision = decision + 1
        observation = result.observation
        if ended.any():
            slots, current, decision, observation = _refill(
                envs, episodes, waiting, slots, current, decision, observation, ended
            )
    return sorted(done_steps)


def steps_of(episode: np.ndarray, decision: np.ndarray, result: ChunkResult) -> list[Step]:
    """A row of ``result`` each. episode, decision: (B,)."""
    columns = (episode, decision, result.reward, result.steps, result.terminated, result.truncated)
    return [
        Step(int(e), int(d), float(r), int(n), bool(te), bool(tr)) for e, d, r, n, te, tr in zip(*columns, strict=True)
    ]


def _refill(
    envs: ChunkEnv,
    episodes: list[Episode],
    waiting: list[int],
    slots: list[int],
    current: np.ndarray,
    decision: np.ndarray,
    observation: Observation,
    ended: np.ndarray,
) -> tuple[list[int], np.ndarray, np.ndarray, Observation]:
    """Start waiting episodes on the slots that ended; slots without work drop out."""
    fresh = np.flatnonzero(ended)[: len(waiting)]
    starts = [waiting.pop() for _ in fresh]
    keep = np.flatnonzero(~ended)
    parts = [take(observation, keep)]
    if starts:
        parts.append(envs.reset([slots[i] for i in fresh], [episodes[index] for index in starts]))
    return (
        [slots[i] for i in [*keep, *fresh]],
        np.concatenate([current[keep], np.array(starts, np.int64)]),
        np.concatenate([decision[keep], np.zeros(len(starts), np.int64)]),
        concatenate(parts),
    )


def take(observation: Observation, rows: np.ndarray) -> Observation:
    return Observation(
        observation.images[rows], observation.state[rows], [observation.instructions[row] for row in rows]
    )


def concatenate(parts: list[Observation]) -> Observation:
    return Observation(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.state for part in parts]),
        [text for part in parts for text in part.instructions],
    )
