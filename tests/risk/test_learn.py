"""What a learner counts, how it explores, and how its regret grows."""

import math

import numpy as np
import pytest

from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Bonus
from pirl_core.risk.beta import optimum
from pirl_core.risk.learn import exploration_bonus, learn, no_counts, regret_bound
from pirl_core.risk.model import Pomdp, play, pomdp_of
from tests.risk.brute import random_policy, random_pomdp

SCALE = load_preset("risk").risk
METHODS = SCALE.methods
FORK = pomdp_of(SCALE.experiments["fork"])


def gaps(pomdp: Pomdp, gamma: float, method: Bonus, episodes: int, seed: int = 0) -> np.ndarray:
    """J(π*) - J(π_k)."""
    return optimum(pomdp, gamma).value - np.array(list(learn(pomdp, gamma, method, episodes, 0.2, seed)))


def test_counts_become_the_world() -> None:
    pomdp, counts = random_pomdp(0, H=3), no_counts(random_pomdp(0, H=3))
    for array in counts.model(pomdp.reward)[:3]:
        assert array == pytest.approx(np.full(array.shape, 1 / 3))
    rng = np.random.default_rng(0)
    policies = [random_policy(seed, pomdp) for seed in range(10)]
    for number in range(1000):
        counts.add(play(pomdp, policies[number % 10], rng.random(7)))
    assert counts.first.sum() == 1000
    assert counts.moved.sum((1, 2, 3)).tolist() == counts.shown.sum((1, 2)).tolist() == [1000] * 3
    # The states that a step leads to are those that the next one begins with, and that are seen through.
    assert np.array_equal(counts.moved[:-1].sum((1, 2)), counts.moved[1:].sum((1, 3)))
    assert np.array_equal(counts.moved.sum((1, 2)), counts.shown.sum(2))
    for seen, found, true in zip(counts, counts.model(pomdp.reward), pomdp):
        assert found.sum(-1) == pytest.approx(np.ones(found.shape[:-1]))
        # Five standard deviations, of 1/2 at most for one visit.
        assert (np.abs(found - true) * np.sqrt(seen.sum(-1, keepdims=True))).max() < 5 * 0.5


def test_the_bonus_is_that_of_the_paper() -> None:
    """Eq. 4 and 5 by hand: saturated at first, then falling as the root of the visits."""
    pomdp = random_pomdp(0, H=2)
    counts, iota = no_counts(pomdp), 7.0
    for gamma in (1.5, -1.5):
        span = [abs(math.exp(gamma * left) - 1) for left in (2, 1)]
        assert exploration_bonus(counts, gamma, 1.0, iota).max((1, 2)) == pytest.approx(span)
        assert exploration_bonus(counts, gamma, 0.0, iota).max() == 0
    counts.moved[0, 1, 2] = [100, 300, 0]
    counts.shown[0, 0, 1], counts.shown[0, 1, 2] = 400, 900
    shows = [0.01 * 3 * math.sqrt(3 * 2 * iota / n) for n in (400, 900)]
    expected = 0.01 * 3 * math.sqrt(3 * 2 * iota / 400) + 0.25 * shows[0] + 0.75 * shows[1]
    assert exploration_bonus(counts, 1.5, 0.01, iota)[0, 1, 2] == pytest.approx((math.exp(3) - 1) * expected)


def test_regret_never_falls_and_stays_below_the_bound() -> None:
    for gamma in (2.0, -2.0):
        pomdp = random_pomdp(1, H=3)
        found = gaps(pomdp, gamma, METHODS["literal"], 150)
        assert found.min() > -1e-12
        assert found.sum() < regret_bound(pomdp, gamma, 150, 0.2)


def test_the_bound_by_hand() -> None:
    """Of a world with one of everything, K = 1 and ι = ln(1 / δ) = 1: 48 (e - 1) · 4."""
    one = np.ones((1, 1, 1, 1))
    pomdp = Pomdp(one[0, 0, 0], one, one[0], one[0])
    assert regret_bound(pomdp, 1.0, 1, math.exp(-1)) == pytest.approx(192 * (math.e - 1))
    assert regret_bound(pomdp, -1.0, 1, math.exp(-1)) == pytest.approx(192 * (math.e - 1))


def test_who_does_not_explore_may_be_stuck() -> None:
    """At the fork, and in some of these random worlds; the scaled bonus is nowhere, and its regret bends."""
    stuck = []
    for pomdp in (FORK, *(random_pomdp(seed, H=3) for seed in (16, 17, 22))):
        greedy, scaled = (gaps(pomdp, 1.0, METHODS[name], 300) for name in ("greedy", "scaled"))
        assert scaled[-100:].mean() < min(0.5 * scaled[:100].mean(), 0.05)
        stuck.append(bool(greedy[-150:].min() > 0.05))
    assert stuck == [True, False, True, True]


def test_a_seed_is_a_learner() -> None:
    pomdp = pomdp_of(SCALE.experiments["pomdp"])
    one = list(learn(pomdp, 1.0, METHODS["literal"], 40, 0.2, 3))
    assert one == list(learn(pomdp, 1.0, METHODS["literal"], 40, 0.2, 3))
    assert one != list(learn(pomdp, 1.0, METHODS["literal"], 40, 0.2, 4))
