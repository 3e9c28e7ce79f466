"""What episodes count for, as numbers: their success, or their return where the task is never solved; and the 95 %
interval that fits. A success rate has closed forms (``stats``), a mean return the bootstrap.

Axes: S training seeds, M initial states, D draws.
"""

import numpy as np
import pandas as pd

from pirl_core import seeds
from pirl_core.evaluation.stats import UPPER, Estimate, Grid, difference_interval, grid_of, mean_interval
from pirl_core.facts import Score

DRAWS = 4000


def score_of(episodes: pd.DataFrame) -> Score:
    """Of the rows of one evaluation or several: a return where ``success`` says nothing."""
    return "return" if len(episodes) and episodes["success"].isna().all() else "success"


def values(episodes: pd.DataFrame, score: Score) -> np.ndarray:
    """One number an episode."""
    return episodes["reward" if score == "return" else "success"].to_numpy(float)


def grid_in(episodes: pd.DataFrame, value: np.ndarray) -> Grid:
    """The design of the rows, with one number each; tasks are strata."""
    return grid_of(episodes["seed"].to_numpy(), episodes["task"].to_numpy(str), episodes["env_seed"].to_numpy(), value)


def mean_of(grid: Grid, score: Score) -> Estimate:
    """Of ``values``."""
    return bootstrap(grid) if score == "return" else mean_interval(grid)


def difference_of(grid: Grid, score: Score) -> Estimate:
    """Of paired differences of ``values``."""
    return bootstrap(grid) if score == "return" else difference_interval(grid)


def bootstrap(grid: Grid) -> Estimate:
    """Mean and percentiles of its bootstrap, stratified by task (Agarwal et al. 2021): each draw takes training seeds
    anew, and of each task initial states, crossed as they are (Owen 2007). With one seed states alone are drawn.

    The draws are the same at every call. Of three seeds a percentile interval is narrower than Student's would be.
    grid.value: (S, M).
    """
    rng = seeds.generator("bootstrap")
    S, M = grid.played.shape
    by_seed = rng.multinomial(S, np.full(S, 1 / S), DRAWS) if S > 1 else np.ones((DRAWS, 1), np.int64)
    by_state = np.zeros((DRAWS, M), np.int64)
    for task in np.unique(grid.task):
        own = np.flatnonzero(grid.task == task)
        by_state[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), DRAWS)
    total = np.einsum("ds,sm,dm->d", by_seed, grid.value, by_state, optimize=True)
    count = np.einsum("ds,sm,dm->d", by_seed, grid.played.astype(float), by_state, optimize=True)
    means = total[count > 0] / count[count > 0]
    low, high = np.quantile(means, [1 - UPPER, UPPER])
    return Estimate(np.asarray(grid.value.sum() / grid.n), low, high)
