"""Episodes played in lockstep on the slots of a vector environment, one chunk a step.

The slots may be in several groups: while one group's chunk is simulated, the policy decides for another. A row's
numbers do not depend on its companions, so neither do results, but for the rounding of forwards of another size.

Axes: B live slots of a group, R executed steps, D action numbers, E episodes, N decisions of all episodes, flat and in
order.
"""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np

from pirl_core.types import ChunkResult, Episode, Observation


class ChunkEnv(Protocol):
    """What a rollout asks of a vector environment; ``envs.vector.VectorEnv`` is one. groups: that its slots play in."""

    num_envs: int
    groups: int

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


class _Live(NamedTuple):
    """A group's running episodes: slots, indices of the episodes and their decision numbers, all (B,), and what they
    show. cut: of those that the time limit ended in the step before, which bootstrapping reads: see ``AtTimeLimit``."""

    slots: list[int]
    current: np.ndarray
    decision: np.ndarray
    observation: Observation
    cut: tuple[Observation, np.ndarray, np.ndarray] | None


def play(envs: ChunkEnv, episodes: list[Episode], decide: Decide, at_time_limit: AtTimeLimit | None) -> list[Step]:
    """Play every episode to its end. A slot that is done takes the next one, so no step after an end is simulated.

    Returns the steps sorted by (episode, decision).
    """
    waiting = list(range(len(episodes)))[::-1]
    done_steps: list[Step] = []

    def begin(slots: list[int]) -> _Live:
        current = np.array([waiting.pop() for _ in slots])
        observation = envs.reset(slots, [episodes[index] for index in current])
        return _Live(slots, current, np.zeros(len(slots), np.int64), observation, None)

    def advance(live: _Live, actions: np.ndarray) -> _Live:
        slots, current, decision, _, _ = live
        result = envs.step(slots, actions)
        done_steps.extend(steps_of(current, decision, result))
        limit = np.flatnonzero(result.truncated & ~result.terminated)
        asked = at_time_limit is not None and len(limit) > 0
        cut = (take(result.observation, limit), current[limit], decision[limit]) if asked else None
        after = _Live(slots, current, decision + 1, result.observation, cut)
        ended = result.terminated | result.truncated
        return _refill(envs, episodes, waiting, after, ended) if ended.any() else after

    count = min(envs.num_envs, len(episodes))
    shares = [slots for group in range(envs.groups) if (slots := list(range(group, count, envs.groups)))]
    # The environment is one thread's alone, since it answers one call at a time; the policy stays in this one.
    with ThreadPoolExecutor(1, "simulate") as thread:
        run = thread.submit if len(shares) > 1 else _at_once
        coming = deque(run(begin, slots) for slots in shares)
        while coming:
            live = coming.popleft().result()
            if live.cut is not None and at_time_limit is not None:
                at_time_limit(*live.cut)
            if live.slots:
                actions = decide(live.observation, live.current, live.decision)
                coming.append(run(advance, live, actions))
    return sorted(done_steps)


def _at_once(call: Callable[..., _Live], /, *args: Any) -> Future[_Live]:
    """As an executor's ``submit``, in this thread."""
    done: Future[_Live] = Future()
    done.set_result(call(*args))
    return done


def steps_of(episode: np.ndarray, decision: np.ndarray, result: ChunkResult) -> list[Step]:
    """A row of ``result`` each. episode, decision: (B,)."""
    columns = (episode, decision, result.reward, result.steps, result.terminated, result.truncated)
    return [
        Step(int(e), int(d), float(r), int(n), bool(te), bool(tr)) for e, d, r, n, te, tr in zip(*columns, strict=True)
    ]


def _refill(envs: ChunkEnv, episodes: list[Episode], waiting: list[int], live: _Live, ended: np.ndarray) -> _Live:
    """Start waiting episodes on the slots that ended; slots without work drop out."""
    fresh = np.flatnonzero(ended)[: len(waiting)]
    starts = [waiting.pop() for _ in fresh]
    keep = np.flatnonzero(~ended)
    parts = [take(live.observation, keep)]
    if starts:
        parts.append(envs.reset([live.slots[i] for i in fresh], [episodes[index] for index in starts]))
    return _Live(
        [live.slots[i] for i in [*keep, *fresh]],
        np.concatenate([live.current[keep], np.array(starts, np.int64)]),
        np.concatenate([live.decision[keep], np.zeros(len(starts), np.int64)]),
        concatenate(parts),
        live.cut,
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
