"""Differences of two figures, and what follows of one for a claim. Pure: arrays in, arrays out, no random numbers.

Axes: S training seeds; "..." any axes before, of simulations.
"""

import numpy as np
from scipy.special import stdtrit

from pirl_core.evaluation.stats import UPPER, Estimate

CONFIRMED, CONTRADICTED, NOT_DECIDED, NO_RUNS = "confirmed", "contradicted", "not decided", "no runs yet"
MOST_SEEDS = 100
"""More are not told: so small a difference is none that a claim is about."""
Region = tuple[float, float]


def region(kind: str, margin: float) -> Region:
    """What A - B is where the claim holds: of ``more`` above 0, of ``not_less`` above -margin, of ``equal`` within ±
    margin."""
    regions = {"more": (0.0, np.inf), "not_less": (-margin, np.inf), "equal": (-margin, margin)}
    return regions[kind]


def decide(where: Region, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Verdicts (...): confirmed where the whole interval lies within, contradicted where none of it does."""
    inside, outside = (low > where[0]) & (high < where[1]), (high < where[0]) | (low > where[1])
    return np.where(inside, CONFIRMED, np.where(outside, CONTRADICTED, NOT_DECIDED))


def paired_t(difference: np.ndarray) -> Estimate:
    """Student's interval (1908) of the mean of differences (..., S), one for each training seed.

    Without any spread, or with one seed, nothing is known of it: the interval is without end. A spread of zero is that
    of counts, such as iterations, which a few seeds may share by chance.
    """
    S = difference.shape[-1]
    mean = difference.mean(-1)
    if S < 2:
        return Estimate(mean, np.full_like(mean, -np.inf), np.full_like(mean, np.inf))
    spread = difference.std(-1, ddof=1)
    flat = spread <= 1e-12 * np.abs(difference).max(-1)
    half = np.where(flat, np.inf, stdtrit(S - 1, UPPER) * spread / S**0.5)
    return Estimate(mean, mean - half, mean + half)


def gain_difference(a: Estimate, b: Estimate) -> Estimate:
    """a - b of two paired gains on different episodes: distances in quadrature, as if independent (Zou, Donner 2008).

    The policies are the same in both. A training seed that gained more in one will have in the other, which makes the
    true interval narrower.
    """
    mean = a.mean - b.mean
    low = mean - np.hypot(a.mean - a.low, b.high - b.mean)
    return Estimate(mean, low, mean + np.hypot(a.high - a.mean, b.mean - b.low))


def seeds_needed(where: Region, found: Estimate, seeds: int) -> int | None:
    """How many training seeds, with as many episodes each, would decide, were the estimate the truth.

    The half-width towards the nearest border falls as t / sqrt(S), t with S - 1 degrees of freedom. None: more than
    MOST_SEEDS, or no interval to start from. found: scalars, of two seeds or more.
    """
    border = min(where, key=lambda value: abs(value - found.mean))
    half = found.mean - found.low if border < found.mean else found.high - found.mean
    if not np.isfinite(half):
        return None
    counts = np.arange(2, MOST_SEEDS + 1)
    reach = half * (stdtrit(counts - 1, UPPER) / counts**0.5) / (stdtrit(seeds - 1, UPPER) / seeds**0.5)
    enough = counts[reach < abs(border - found.mean)]
    return int(enough[0]) if len(enough) else None
