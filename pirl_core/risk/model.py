"""A tabular POMDP whose hidden states are told after each episode (arXiv 2402.18149, Sec. 3).

Axes: H steps, A actions, S states, O observations, F histories of a step.

A history of step h is (a_1, o_2, ..., a_{h-1}, o_h): before the first action nothing is observed. There are
F = (A O)^(h-1) of them, and they are counted: the one that goes on from number f with action a and observation o has
the number (a F + f) O + o. So an array over the histories of a step is one over (a, f, o) without a copy.
"""

from typing import NamedTuple

import numpy as np

from pirl_core.params.sections import World

Policy = list[np.ndarray]
"""Of each step the action for each history: H arrays (F,) of int."""


class Pomdp(NamedTuple):
    """initial: (S,), of s_1. transition: (H, A, S, S), of s_{h+1} given a_h and s_h. emission: (H, S, O), of o_{h+1}
    given s_{h+1}. reward: (H, A, S), in [0, 1]."""

    initial: np.ndarray
    transition: np.ndarray
    emission: np.ndarray
    reward: np.ndarray


class Episode(NamedTuple):
    """states: s_1 to s_{H+1}; actions: a_1 to a_H; observations: o_2 to o_{H+1}."""

    states: list[int]
    actions: list[int]
    observations: list[int]


def metric(name: str, gamma: float) -> str:
    """What curves call a number of the learner with this risk parameter: ``regret/gamma_-3``."""
    return f"{name}/gamma_{gamma:.15g}"


def pomdp_of(world: World) -> Pomdp:
    """Of its parameters: rows of weights become probabilities, and every step has the same."""

    def each_step(array: np.ndarray) -> np.ndarray:
        return np.broadcast_to(array, (world.horizon, *array.shape)).copy()

    return Pomdp(
        shares(np.array(world.initial)),
        each_step(shares(np.array(world.transition))),
        each_step(shares(np.array(world.emission))),
        each_step(np.array(world.reward).T),
    )


def shares(weights: np.ndarray) -> np.ndarray:
    """(..., n) divided by the sums over n; a row of zeros becomes uniform."""
    total = weights.sum(-1, keepdims=True)
    uniform = np.full(weights.shape, 1 / weights.shape[-1])
    return np.divide(weights, total, out=uniform, where=total > 0)


def play(pomdp: Pomdp, policy: Policy, uniform: np.ndarray) -> Episode:
    """An episode with its states. uniform: (2 H + 1,), numbers in [0, 1), for s_1 and then s and o of each step."""
    episode = Episode([_drawn(pomdp.initial, uniform[0])], [], [])
    history = 0
    for h, actions in enumerate(policy):
        action = int(actions[history])
        state = _drawn(pomdp.transition[h, action, episode.states[-1]], uniform[2 * h + 1])
        observation = _drawn(pomdp.emission[h, state], uniform[2 * h + 2])
        history = (action * len(actions) + history) * pomdp.emission.shape[-1] + observation
        episode.states.append(state)
        episode.actions.append(action)
        episode.observations.append(observation)
    return episode


def _drawn(probability: np.ndarray, uniform: float) -> int:
    """By the inverse of the distribution function, of which the last value, 1 but for rounding, is left out."""
    return int((uniform >= probability.cumsum()[:-1]).sum())
