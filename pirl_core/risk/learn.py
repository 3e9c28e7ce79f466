"""Optimistic value iteration with beta vectors in a world that is learned (arXiv 2402.18149, Alg. 1), and its regret.

Axes: H steps, A actions, S states, O observations.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pirl_core import seeds
from pirl_core.params.sections import Bonus
from pirl_core.risk.beta import operator, plan, risk_value
from pirl_core.risk.model import Episode, Pomdp, play, shares

CONSTANT = 3.0
"""Of the bonus, in Eq. 5."""


class Counts(NamedTuple):
    """What was seen, with states told after each episode. first: (S,), of s_1; moved: (H, A, S, S), of (a_h, s_h,
    s_{h+1}); shown: (H, S, O), of (s_{h+1}, o_{h+1})."""

    first: np.ndarray
    moved: np.ndarray
    shown: np.ndarray

    def add(self, episode: Episode) -> None:
        steps = np.arange(len(episode.actions))
        before, after = episode.states[:-1], episode.states[1:]
        self.first[episode.states[0]] += 1
        self.moved[steps, episode.actions, before, after] += 1
        self.shown[steps, after, episode.observations] += 1

    def model(self, reward: np.ndarray) -> Pomdp:
        """Relative frequencies (Eq. 6), uniform where nothing was seen, as at the start. The reward is known."""
        return Pomdp(shares(self.first), shares(self.moved), shares(self.shown), reward)


def no_counts(pomdp: Pomdp) -> Counts:
    return Counts(*(np.zeros_like(array) for array in (pomdp.initial, pomdp.transition, pomdp.emission)))


def log_factor(pomdp: Pomdp, episodes: int, delta: float) -> float:
    """ι = ln(K H S O A / δ)."""
    H, A, S, _ = pomdp.transition.shape
    return math.log(episodes * H * S * pomdp.emission.shape[-1] * A / delta)


def exploration_bonus(counts: Counts, gamma: float, scale: float, iota: float) -> np.ndarray:
    """(H, A, S): b_h(s, a) = |e^{γ (H-h+1)} - 1| min{1, t_h(s, a) + Σ_{s'} T̂_h(s' | s, a) o_{h+1}(s')} with
    t_h = min{1, 3 √(S H ι / N_h(s, a))}, o_{h+1} = min{1, 3 √(O H ι / N_{h+1}(s'))} and no N below 1 (Eq. 4, 5).

    scale: of the constant 3.
    """
    H, _, S, _ = counts.moved.shape

    def width(kinds: int, seen: np.ndarray) -> np.ndarray:
        found: np.ndarray = np.minimum(1, scale * CONSTANT * np.sqrt(kinds * H * iota / np.maximum(seen, 1)))
        return found

    moves, shows = width(S, counts.moved.sum(-1)), width(counts.shown.shape[-1], counts.shown.sum(-1))
    ahead = (shares(counts.moved) @ shows[:, None, :, None])[..., 0]
    span = np.abs(np.expm1(gamma * np.arange(H, 0, -1)))[:, None, None]
    bonus: np.ndarray = span * np.minimum(1, moves + ahead)
    return bonus


def learn(pomdp: Pomdp, gamma: float, method: Bonus, episodes: int, delta: float, seed: int) -> Iterator[float]:
    """J(π_k) of the policy of each episode k = 1, ..., K, exact in the true world ``pomdp``; its counts then grow.

    The chance of an episode is a function of seed and k alone, so all learners of a seed meet the same.
    """
    iota, true = log_factor(pomdp, episodes, delta), operator(pomdp, gamma)
    counts = no_counts(pomdp)
    for k in range(episodes):
        model = counts.model(pomdp.reward)
        bonus = exploration_bonus(counts, gamma, method.bonus_scale, iota)
        policy = plan(model.initial, operator(model, gamma), gamma, bonus, method.bonus_in_q).policy
        yield risk_value(pomdp.initial, true, gamma, policy)
        chance = seeds.generator("start", seeds.train_seed(seed, "risk", k))
        counts.add(play(pomdp, policy, chance.random(2 * len(policy) + 1)))


def regret_bound(pomdp: Pomdp, gamma: float, episodes: int, delta: float) -> float:
    """What Σ_k J(π*) - J(π_k) stays below with probability 1 - 4 δ, by Theorem 6.1 (Eq. 23):
    48 (e^{|γ| H} - 1) / |γ| √(H ι) (√(K S) + H √(K S² A) + H √(K S O) + H √K)."""
    H, A, S, _ = pomdp.transition.shape
    visits = math.sqrt(S) + H * (math.sqrt(S * S * A) + math.sqrt(S * pomdp.emission.shape[-1]) + 1)
    steep = math.expm1(abs(gamma) * H) / abs(gamma)
    return 48 * steep * math.sqrt(H * log_factor(pomdp, episodes, delta)) * math.sqrt(episodes) * visits
