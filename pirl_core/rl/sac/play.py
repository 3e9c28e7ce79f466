"""Episodes played while the policy learns: a decision in every environment, what it learns of them, the next decision.

Axes: B environments, S state numbers, R executed steps, A action numbers.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pirl_core.rl.rollout import ChunkEnv, Step, concatenate, steps_of, take
from pirl_core.rl.sac.replay import Transitions
from pirl_core.types import Episode, Observation

Read = Callable[[Observation], np.ndarray]
"""Observation of B environments → normalised states (B, S) float32."""
Decide = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(states (B, S), episode numbers (B,), decisions (B,)) → actions (B, R, A) in simulator units, and squashed."""


class Played(NamedTuple):
    """One decision in each of B environments."""

    rows: Transitions
    steps: list[Step]


def play(
    envs: ChunkEnv, episode_of: Callable[[int], Episode], first: int, wanted: int, read: Read, decide: Decide
) -> Iterator[Played]:
    """Starts episodes, from number ``first`` on, until ``wanted`` decisions are made, and plays them to their ends.

    After each decision it waits until it is asked for the next, which the policy takes as it is then.
    """
    slots = list(range(envs.num_envs))
    number = first + np.arange(len(slots))
    decision = np.zeros(len(slots), np.int64)
    observation = envs.reset(slots, [episode_of(int(index)) for index in number])
    following, made = first + len(slots), 0
    while slots:
        state = read(observation)
        actions, squashed = decide(state, number, decision)
        result = envs.step(slots, actions)
        made += len(slots)
        steps = steps_of(number, decision, result)
        after = read(result.observation)
        yield Played(Transitions(state, squashed, result.reward, after, result.terminated.astype(np.float32)), steps)
        ended = result.terminated | result.truncated
        fresh = np.flatnonzero(ended) if made < wanted else np.flatnonzero(ended)[:0]
        keep = np.flatnonzero(~ended)
        parts = [take(result.observation, keep)]
        if len(fresh):
            starts = [episode_of(following + index) for index in range(len(fresh))]
            parts.append(envs.reset([slots[place] for place in fresh], starts))
        number = np.concatenate([number[keep], following + np.arange(len(fresh))])
        decision = np.concatenate([decision[keep] + 1, np.zeros(len(fresh), np.int64)])
        slots = [slots[place] for place in [*keep, *fresh]]
        following += len(fresh)
        observation = concatenate(parts)
