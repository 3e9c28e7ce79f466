"""Intervals of success rates and of their differences. All is vectorised; every random number comes from `rng`.

Axes: S training seeds, T tasks (the strata), V values that an episode can score, B bootstrap replicates, N episodes.

Two intervals stand beside every rate, because they answer different questions:

* Wilson (`ci_low`, `ci_high`): the pooled episodes as one binomial sample. It is never a point, also at 0 of n and n
  of n, and is what the tables show. It ignores that tasks differ (cautious) and that training seeds differ (bold).
* Stratified bootstrap (`boot_low`, `boot_high`): training seeds are drawn with replacement, then episodes with
  replacement within each task of each drawn seed, as in Agarwal et al. 2021 (arXiv:2108.13264). One drawn seed serves
  all tasks, because one training run makes one policy for all of them. With one training seed only episodes within
  tasks are drawn. It shrinks to a point where no stratum varies: at 0 of n it says [0, 0].
"""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Rate(NamedTuple):
    """A success rate with both of its 95 % intervals."""

    n: int
    successes: int
    rate: float
    ci_low: float
    ci_high: float
    boot_low: float
    boot_high: float


class Difference(NamedTuple):
    """Mean of `after - before` over the pairs, its 95 % bootstrap interval, and the number of pairs."""

    diff: float
    low: float
    high: float
    n: int


def wilson(successes: np.ndarray | int, n: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's 95 % score interval (1927), without continuity correction; element by element. n = 0 gives (0, 1)."""
    k, n = np.asarray(successes, float), np.asarray(n, float)
    if np.any(k < 0) or np.any(k > n):
        raise ValueError("successes must lie between 0 and n")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    rate = np.divide(k, n, out=np.full(np.broadcast(k, n).shape, 0.5), where=n > 0)
    center = (n * rate + z * z / 2) / (n + z * z)
    half = z * np.sqrt(n * rate * (1 - rate) + z * z / 4) / (n + z * z)
    # At the ends the bound is exactly 0 or 1; rounding must not say otherwise.
    low = np.where((k == 0), 0.0, np.clip(center - half, 0, 1))
    high = np.where((k == n), 1.0, np.clip(center + half, 0, 1))
    return low, high


def count_cells(seed: np.ndarray, task: np.ndarray, value: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Episodes per (training seed, task, value): (N,), (N,), (N,), (V,) sorted -> (S, T, V) int64."""
    seeds, s = np.unique(seed, return_inverse=True)
    tasks, t = np.unique(task, return_inverse=True)
    shape = (len(seeds), len(tasks), len(values))
    cell = np.ravel_multi_index((s, t, np.searchsorted(values, value)), shape)
    return np.bincount(cell, minlength=int(np.prod(shape))).reshape(shape)


def bootstrap_mean(
    counts: np.ndarray, values: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[float, float]:
    """95 % percentile interval of the mean value under the stratified bootstrap of the module's docstring.

    counts: (S, T, V) int, values: (V,). Drawing n episodes with replacement from a cell that holds n_v of value v is
    one multinomial draw with probabilities n_v / n, so no episode is ever copied.
    """
    n = counts.sum(-1)  # (S, T)
    empty = np.eye(len(values))[0]  # the probabilities of a cell without episodes: anything that sums to one
    p = np.where(n[..., None] > 0, counts / np.maximum(n, 1)[..., None], empty)
    drawn = rng.integers(len(counts), size=(samples, len(counts)))  # (B, S)
    totals = rng.multinomial(n[drawn], p[drawn]).sum((1, 2))  # (B, V)
    means = totals @ values / np.maximum(totals.sum(-1), 1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def success_rate(
    seed: np.ndarray, task: np.ndarray, success: np.ndarray, samples: int, rng: np.random.Generator
) -> Rate:
    """Rate of the pooled episodes with both intervals. seed, task, success: (N,). Raises ValueError for N = 0."""
    if len(success) == 0:
        raise ValueError("a success rate needs at least one episode")
    success = np.asarray(success, bool)
    n, k = len(success), int(success.sum())
    ci_low, ci_high = wilson(k, n)
    values = np.array([0, 1])
    boot = bootstrap_mean(count_cells(seed, task, success.astype(int), values), values, samples, rng)
    return Rate(n, k, k / n, float(ci_low), float(ci_high), *boot)


def paired_difference(
    seed: np.ndarray,
    task: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    samples: int,
    rng: np.random.Generator,
) -> Difference:
    """Mean of after - before over pairs of episodes with the same training seed and initial state. All arrays (N,).

    An episode pair scores -1, 0 or 1; pairs are kept together in the bootstrap, which removes the variance that both
    policies share through the difficulty of the initial state. Raises ValueError for N = 0.
    """
    if len(before) == 0:
        raise ValueError("a paired difference needs at least one pair")
    change = np.asarray(after, int) - np.asarray(before, int)
    values = np.array([-1, 0, 1])
    low, high = bootstrap_mean(count_cells(seed, task, change, values), values, samples, rng)
    return Difference(float(change.mean()), low, high, len(change))
