"""95 % intervals of success rates, of paired differences and of mean lengths. Closed forms: no random numbers.

Axes: S training seeds, T tasks, M initial states of all tasks, N episodes; "..." any axes before, of simulations.

What is estimated is the mean over new training seeds and new initial states. Tasks are fixed strata, each weighing as
many episodes as the protocol gives it. Every training seed plays the same states, so the design is crossed, and an
episode's outcome holds a share of its seed, one of its state and one of its own. With one training seed nothing is
known of how seeds differ: the interval is that seed's alone, and whoever shows it says so (`Grid.single_seed`).

Two parts of uncertainty, each taken from the residuals e = outcome - mean of its task:

* States. u_m is the mean residual of state m over the seeds, which holds the episodes' own noise too. The variance of
  the mean is V = (Σ u_m² + w) / ((M - T + 1) M), w = (M v + 1/2) / (M + 1), v the variance of one outcome: as if on
  one more state all seeds had agreed, with half a success more, because a few states cannot show that there are rare
  ones. An effective sample size n* = v / V · (z / t)² (Korn and Graubard 1998) says how many independent episodes know
  as much; never fewer than states, for no seed takes away what the others know, nor more than there are outcomes. t has
  Satterthwaite's (1946) degrees of freedom 2 (Σq)² / Σq² over q = (u_1², ..., u_M², w), at most M - T + 1: few where
  few states vary.
  The interval of a rate is Clopper and Pearson's (1934) at n* episodes. Wilson's covers only 92 % of 50 episodes and
  90 % of 5 at a rate of 0.02.
* Seeds. The squared half-width t² Σ_s (Σ_m e_sm)² S / (S - 1) / N², t with S - 1 degrees of freedom: 4.3 for three.

Distances of both parts are added in quadrature on either side (Zou and Donner 2008; Banerjee 1960 shows that for normal
means this covers at least 95 %, whatever the ratio of the variances, which Satterthwaite's approximation does not with
two or three seeds). The noise of the episodes is in both, which is on the safe side (Owen 2007 on crossed designs).

A paired difference is the share of pairs gained less the share lost, each with Clopper and Pearson's interval at the
n* of the differences; they are joined as in Newcombe (1998, method 10) and Zou and Donner, with the correlation that
two cells of one multinomial have. Newcombe's own, of Wilson's intervals, covers 90 % of ten pairs.

With one seed, a rate has Clopper and Pearson's interval itself.

docs/statistics.md has the coverage of all this, and of what was used before, by simulation.

Korn, Graubard: Survey Methodology 24, 193. Satterthwaite: Biometrics Bulletin 2, 110. Clopper, Pearson: Biometrika 26,
404. Zou, Donner: Statistics in Medicine 27, 1693. Banerjee: Sankhyā 22, 357. Owen: Annals of Applied Statistics 1, 386.
Newcombe: Statistics in Medicine 17, 2635.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtri, stdtrit

CONFIDENCE = 0.95
UPPER = (1 + CONFIDENCE) / 2


class Grid(NamedTuple):
    """Outcomes of a crossed design. value: (..., S, M), 0 where not played; played: (S, M) bool; task: (M,) int."""

    value: np.ndarray
    played: np.ndarray
    task: np.ndarray

    @property
    def n(self) -> int:
        return int(self.played.sum())

    @property
    def single_seed(self) -> bool:
        return len(self.played) == 1


class Estimate(NamedTuple):
    """A mean and its 95 % interval; arrays of shape (...) for a grid with axes before."""

    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def grid_of(seed: np.ndarray, task: np.ndarray, state: np.ndarray, value: np.ndarray) -> Grid:
    """One row an episode -> a grid. All (N,); a state is known by its task and ``state``.

    Raises ValueError for N = 0 and for an episode that occurs twice.
    """
    if len(value) == 0:
        raise ValueError("an interval needs at least one episode")
    seeds, s = np.unique(seed, return_inverse=True)
    t = np.unique(task, return_inverse=True)[1]
    names, m = np.unique(state, return_inverse=True)
    states, m = np.unique(t * len(names) + m, return_inverse=True)
    played = np.zeros((len(seeds), len(states)), bool)
    played[s, m] = True
    if played.sum() < len(value):
        raise ValueError("an episode occurs twice: same training seed, task and state")
    grid = np.zeros(played.shape)
    grid[s, m] = value
    return Grid(grid, played, states // len(names))


def mean_interval(grid: Grid, longest: int = 1) -> Estimate:
    """Mean of values in 0..longest: a success rate, or the mean length of sequences of ``longest`` subtasks.

    A sequence counts as ``longest`` outcomes that its state ties together, so that 0..longest needs no formula of its
    own: the share solved is a rate.
    """
    share = grid._replace(value=grid.value / longest)
    rate = share.value.sum((-2, -1)) / share.n
    states, seeds = _parts(share, rate * (1 - rate), share.n * longest)
    low, high = clopper_pearson(rate, states)
    low, high = rate - np.hypot(rate - low, seeds), rate + np.hypot(high - rate, seeds)
    return Estimate(longest * rate, longest * np.maximum(low, 0), longest * np.minimum(high, 1))


def difference_interval(grid: Grid) -> Estimate:
    """Mean of after - before over pairs of episodes of the same training seed and state. grid.value: -1, 0 or 1."""
    gained, lost = ((grid.value == sign).sum((-2, -1)) / grid.n for sign in (1, -1))
    mean = gained - lost
    states, seeds = _parts(grid, gained + lost - mean**2, grid.n)
    (gain_low, gain_high), (loss_low, loss_high) = (clopper_pearson(rate, states) for rate in (gained, lost))
    # -correlation of the two cells' shares. Where one is 1 the other is 0, and so is the correlation.
    free = (1 - gained) * (1 - lost)
    opposed = np.sqrt(np.divide(gained * lost, free, out=np.zeros(np.shape(free)), where=free > 0))

    def distance(gain: np.ndarray, loss: np.ndarray) -> np.ndarray:
        square: np.ndarray = gain**2 + loss**2 + 2 * opposed * gain * loss + seeds**2
        return square**0.5

    low = mean - distance(gained - gain_low, loss_high - lost)
    high = mean + distance(gain_high - gained, lost - loss_low)
    return Estimate(mean, np.maximum(low, -1), np.minimum(high, 1))


def clopper_pearson(rate: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exact binomial limits of ``rate`` in n episodes, element by element; neither need be a count."""
    k, rest = rate * n, (1 - rate) * n
    low = np.where(rate > 0, betaincinv(np.where(rate > 0, k, 1), rest + 1, 1 - UPPER), 0)
    high = np.where(rate < 1, betaincinv(k + 1, np.where(rate < 1, rest, 1), UPPER), 1)
    return low, high


def _parts(grid: Grid, v: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(effective sample size that the states leave, half-width that the seeds add), as in the module's docstring.

    v: (...), variance of one outcome; most: number of outcomes. Both results (...).
    """
    S, M = grid.played.shape
    member = (grid.task[:, None] == np.unique(grid.task)).astype(float)  # (M, T)
    means = grid.value.sum(-2) @ member / (grid.played.sum(0) @ member)  # (..., T)
    residual = np.where(grid.played, grid.value - (means @ member.T)[..., None, :], 0)

    u = residual.sum(-2) * M / grid.n
    w = (M * v + 0.5) / (M + 1)
    total, squares = (u**2).sum(-1) + w, (u**4).sum(-1) + w**2
    freedom = M - member.shape[1] + 1
    t = stdtrit(np.minimum(2 * total**2 / squares, freedom), UPPER)
    variance = total / (freedom * M)
    states = np.clip(v / variance * (ndtri(UPPER) / t) ** 2, M, most)
    if S == 1:
        return states, np.zeros(np.shape(v))
    between = (residual.sum(-1) ** 2).sum(-1) * S / (S - 1) / grid.n**2
    return states, stdtrit(S - 1, UPPER) * np.sqrt(between)
