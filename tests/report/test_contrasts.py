"""Verdicts by simulation: what is planted is found, and where nothing is, no more is found than the stated rate.

Axes: R replicates, S training seeds, M initial states.
"""

from collections import Counter

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import t as student

from pirl_core.evaluation.stats import Estimate, Grid, difference_interval
from pirl_core.report.contrasts import (
    CONFIRMED,
    CONTRADICTED,
    NOT_DECIDED,
    decide,
    gain_difference,
    paired_t,
    region,
    seeds_needed,
)

R, M = 2000, 100
SIDE = 0.025 + 4 * (0.025 * 0.975 / R) ** 0.5
"""Of false verdicts with one sign: 2.5 %, and what R replicates may add by chance."""
MORE, EQUAL, NOT_LESS = region("more", 0.0), region("equal", 0.05), region("not_less", 0.05)


def gains(rng: np.random.Generator, S: int, before: float, after: float, shared: np.ndarray) -> Estimate:
    """Paired differences of episodes whose states are as hard for both policies. shared: (R, S, 1), what a seed adds
    to the policy after."""
    state = 0.5**0.5 * rng.standard_normal((R, 1, M))
    own = 0.5**0.5 * rng.standard_normal((2, R, S, M))
    success = [state + own[0] < ndtri(before), state + own[1] < ndtri(after) + shared]
    return difference_interval(Grid(success[1].astype(float) - success[0], np.ones((S, M), bool), np.arange(M) // 25))


def shares(where: tuple[float, float], found: Estimate) -> Counter[str]:
    verdicts = decide(where, found.low, found.high)
    return Counter({word: float((verdicts == word).mean()) for word in (CONFIRMED, CONTRADICTED, NOT_DECIDED)})


def seed_effects(rng: np.random.Generator, S: int) -> np.ndarray:
    return 0.3 * rng.standard_normal((R, S, 1))


@pytest.mark.parametrize("S", [3, 5])
def test_success_of_the_same_episodes(S: int) -> None:
    rng = np.random.default_rng(S)
    null = shares(MORE, gains(rng, S, 0.5, 0.5, seed_effects(rng, S)))
    assert max(null[CONFIRMED], null[CONTRADICTED]) <= SIDE and null[NOT_DECIDED] >= 0.95 - 2 * (SIDE - 0.025)
    nothing = np.zeros((R, S, 1))
    assert shares(MORE, gains(rng, S, 0.4, 0.8, nothing))[CONFIRMED] > 0.9
    assert shares(MORE, gains(rng, S, 0.8, 0.4, nothing))[CONTRADICTED] > 0.9
    # At the border of a margin the claim may be confirmed no more often than at no difference.
    assert shares(EQUAL, gains(rng, S, 0.5, 0.55, nothing))[CONFIRMED] <= SIDE
    assert shares(NOT_LESS, gains(rng, S, 0.5, 0.45, nothing))[CONFIRMED] <= SIDE
    assert shares(NOT_LESS, gains(rng, S, 0.5, 0.8, nothing))[CONFIRMED] > 0.9
    assert shares(EQUAL, gains(rng, S, 0.4, 0.8, nothing))[CONTRADICTED] > 0.9


@pytest.mark.parametrize("S", [3, 5])
def test_gains_of_different_episodes(S: int) -> None:
    """Of policies whose seeds do better in both or worse in both, and of such as do better in one alone."""
    rng = np.random.default_rng(10 + S)
    for both in (True, False):
        shared = seed_effects(rng, S)
        a = gains(rng, S, 0.4, 0.6, shared)
        b = gains(rng, S, 0.4, 0.6, shared if both else seed_effects(rng, S))
        null = shares(MORE, gain_difference(a, b))
        assert max(null[CONFIRMED], null[CONTRADICTED]) <= SIDE
    nothing = np.zeros((R, S, 1))
    large, small = gains(rng, S, 0.2, 0.9, nothing), gains(rng, S, 0.4, 0.45, nothing)
    assert shares(MORE, gain_difference(large, small))[CONFIRMED] > 0.9
    assert shares(MORE, gain_difference(small, large))[CONTRADICTED] > 0.9


@pytest.mark.parametrize("S", [3, 5])
def test_curves(S: int) -> None:
    noise = np.random.default_rng(S).standard_normal((R, S))
    null = shares(MORE, paired_t(noise))
    assert all(abs(null[word] - 0.025) <= SIDE - 0.025 for word in (CONFIRMED, CONTRADICTED))
    assert shares(MORE, paired_t(noise + 8))[CONFIRMED] > 0.9 and shares(MORE, paired_t(noise - 8))[CONTRADICTED] > 0.9
    found = paired_t(noise[0])
    assert (found.low, found.high) == pytest.approx(
        student.interval(0.95, S - 1, noise[0].mean(), noise[0].std(ddof=1) / S**0.5)
    )


@pytest.mark.parametrize("difference", [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [0.1 + 0.2, 0.3, 0.3], [1.0]])
def test_seeds_without_a_spread_decide_nothing(difference: list[float]) -> None:
    found = paired_t(np.array(difference))
    assert all(str(decide(where, found.low, found.high)) == NOT_DECIDED for where in (MORE, EQUAL, NOT_LESS))


@pytest.mark.parametrize(("where", "mean"), [(MORE, 1.0), (MORE, -1.0), (region("equal", 2.0), 1.0), (NOT_LESS, -1.05)])
def test_the_seeds_that_would_decide(where: tuple[float, float], mean: float) -> None:
    """Three seeds of variance 1 are too few for a distance of 1 to the border: t / sqrt(S) < 1 from seven on."""
    half = float(student.ppf(0.975, 2)) / 3**0.5
    found = Estimate(*(np.array(value) for value in (mean, mean - half, mean + half)))
    assert str(decide(where, found.low, found.high)) == NOT_DECIDED and seeds_needed(where, found, 3) == 7
    assert seeds_needed(MORE, Estimate(*(np.array(value) for value in (0.0, -half, half))), 3) is None
