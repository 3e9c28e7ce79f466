"""Intervals against scipy, a brute-force twin, McNemar's test, invariants, and simulated coverage."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest, norm, t

from benchmarks.coverage import Cell, coverage, draw, present
from pirl_core.evaluation.stats import Estimate, Grid, difference_interval, grid_of, mean_interval


def full(value: np.ndarray, tasks: int = 1) -> Grid:
    """(..., S, M) without gaps; states evenly among the tasks."""
    states = value.shape[-1]
    return Grid(value.astype(float), np.ones(value.shape[-2:], bool), np.arange(states) * tasks // states)


@st.composite
def grids(draw: Any, values: tuple[int, ...] = (0, 1)) -> Grid:
    """Up to 6 seeds, 3 tasks, 12 states, some episodes missing; every seed and state is played at least once."""
    seeds, tasks = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    states = draw(st.integers(tasks, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    chance = rng.dirichlet(np.full(len(values), draw(st.sampled_from([0.1, 1, 10]))))
    played = rng.random((seeds, states)) < draw(st.sampled_from([0.6, 1.1]))
    played[np.arange(max(seeds, states)) % seeds, np.arange(max(seeds, states)) % states] = True
    value = np.where(played, rng.choice(values, played.shape, p=chance), 0)
    return full(value, tasks)._replace(played=played)


def limits(rate: float, n: float) -> tuple[float, float]:
    """Clopper and Pearson's limits by quantiles of the beta distribution."""
    k = rate * n
    low = beta.ppf(0.025, k, n - k + 1) if k > 0 else 0
    return low, beta.ppf(0.975, k + 1, n - k) if k < n else 1


def twin(grid: Grid, longest: int = 1, signs: bool = False) -> tuple[float, float, float]:
    """The docstring of `pirl_core.evaluation.stats`, episode by episode."""
    S, M = grid.played.shape
    rows = [
        (s, m, grid.task[m], grid.value[s, m] / longest) for s, m in itertools.product(range(S), range(M))
        if grid.played[s, m]
    ]  # fmt: skip
    mean = sum(y for *_, y in rows) / len(rows)
    v = np.var([y for *_, y in rows]) if signs else mean * (1 - mean)
    of_task = {task: np.mean([y for *_, one, y in rows if one == task]) for task in set(grid.task)}
    residual = [(s, m, y - of_task[task]) for s, m, task, y in rows]
    u = [sum(e for _, i, e in residual if i == m) * M / len(rows) for m in range(M)]
    q, freedom = [*np.square(u), (M * v + 1 / 2) / (M + 1)], M - len(of_task) + 1
    df = min(freedom, 2 * sum(q) ** 2 / sum(np.square(q)))
    n = np.clip(v / (sum(q) / freedom / M) * (norm.ppf(0.975) / t.ppf(0.975, df)) ** 2, M, len(rows) * longest)
    seeds = 0.0
    if S > 1:
        sums = [sum(e for i, _, e in residual if i == s) for s in range(S)]
        seeds = t.ppf(0.975, S - 1) ** 2 * sum(np.square(sums)) * S / (S - 1) / len(rows) ** 2
    if not signs:
        low, high = limits(mean, n)
        low, high = mean - np.sqrt((mean - low) ** 2 + seeds), mean + np.sqrt((high - mean) ** 2 + seeds)
        return longest * mean, longest * max(low, 0), longest * min(high, 1)
    gain, loss = (np.mean([y == sign for *_, y in rows]) for sign in (1, -1))
    (a, b), (c, d) = limits(gain, n), limits(loss, n)
    rho = -np.sqrt(gain * loss / (1 - gain) / (1 - loss)) if gain * loss else 0
    low = mean - np.sqrt((gain - a) ** 2 + (d - loss) ** 2 - 2 * rho * (gain - a) * (d - loss) + seeds)
    high = mean + np.sqrt((b - gain) ** 2 + (loss - c) ** 2 - 2 * rho * (b - gain) * (loss - c) + seeds)
    return mean, max(low, -1), min(high, 1)


@settings(max_examples=60)
@given(grids(), grids((-1, 0, 1)), grids((0, 1, 2, 3, 4, 5)))
def test_a_brute_force_twin_agrees(rates: Grid, signs: Grid, lengths: Grid) -> None:
    assert mean_interval(rates) == pytest.approx(twin(rates), abs=1e-9)
    assert difference_interval(signs) == pytest.approx(twin(signs, signs=True), abs=1e-9)
    assert mean_interval(lengths, 5) == pytest.approx(twin(lengths, 5), abs=1e-9)


@given(st.integers(1, 300), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_the_rate_of_one_seed_has_the_exact_binomial_interval(n: int, tasks: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    value = rng.random((1, n)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    wanted = binomtest(int(value.sum()), n).proportion_ci(method="exact")
    assert mean_interval(full(value, min(tasks, n))) == pytest.approx((value.mean(), *wanted), abs=1e-9)


def pairs(n: int, gained: int, lost: int) -> Estimate:
    return difference_interval(full(np.repeat([1, -1, 0], [gained, lost, n - gained - lost])[None]))


def test_a_difference_of_one_seed_agrees_with_mcnemar() -> None:
    none = pairs(50, 0, 0)
    assert (none.low, none.high) == pytest.approx((-0.0711, 0.0711), abs=5e-5)
    assert pairs(20, 4, 0).low < 0 < 0.4 < pairs(20, 4, 0).high  # the exact test says p = 0.125
    for n, lost in itertools.product((10, 20, 50, 240, 2000), range(8)):
        for gained in range(lost + 1, min(n - lost, lost + 20) + 1):
            tail = binom.sf(gained - 1, gained + lost, 0.5)
            middle = 2 * tail - binom.pmf(gained, gained + lost, 0.5)
            found = pairs(n, gained, lost)
            assert found.low < 0 or middle < 0.05
            assert found.low > 0 or 2 * tail > 0.005, "a plain difference is seen"
            mirrored = pairs(n, lost, gained)
            assert (found.low, found.high) == pytest.approx((-mirrored.high, -mirrored.low))


@given(grids(), grids((-1, 0, 1)), st.integers(0, 2**32 - 1))
def test_never_a_point_within_bounds_symmetric_and_of_no_order(rates: Grid, signs: Grid, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for grid, interval, least in ((rates, mean_interval, 0), (signs, difference_interval, -1)):
        one = interval(grid)
        assert least <= one.low <= one.mean <= one.high <= 1
        assert one.high - one.low > (1 - least) / len(grid.task) / 10
        # Success and failure, or the two policies, exchanged.
        other = interval(grid._replace(value=np.where(grid.played, 1 + least - grid.value, 0)))
        assert (1 + least - one.high, 1 + least - one.low) == pytest.approx((other.low, other.high), abs=1e-9)
        s, m = rng.permutation(len(grid.played)), rng.permutation(len(grid.task))
        moved = Grid(grid.value[s][:, m], grid.played[s][:, m], grid.task[m])
        assert interval(moved) == pytest.approx(one, abs=1e-9)
    one, many = mean_interval(rates), mean_interval(rates._replace(value=np.stack([rates.value] * 2)))
    assert all(array == pytest.approx(np.full(2, number)) for array, number in zip(many, one, strict=True))


@given(st.integers(2, 8), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_seeds_that_agree_on_every_state_tell_no_more_than_one(seeds: int, states: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    value = rng.random((1, states)) < rng.random()
    assert mean_interval(full(np.repeat(value, seeds, 0))) == pytest.approx(mean_interval(full(value)), abs=1e-9)
    change: np.ndarray = value.astype(int) - (rng.random((1, states)) < rng.random())
    several, one = (difference_interval(full(np.repeat(change, count, 0))) for count in (seeds, 1))
    assert several == pytest.approx(one, abs=1e-9)


def test_seeds_widen_by_students_t_and_states_by_what_seeds_share() -> None:
    rng = np.random.default_rng(0)
    level = rng.random(4000)
    for seeds in (2, 3, 10):
        # Seeds that differ far more than their noise: the interval is Student's over their means.
        means = np.linspace(0.4, 0.6, seeds)
        found = mean_interval(full(rng.permuted(level < means[:, None], axis=1)))
        half = t.ppf(0.975, seeds - 1) * means.std(ddof=1) / seeds**0.5
        assert (found.low, found.high) == pytest.approx((max(0.5 - half, 0), min(0.5 + half, 1)), abs=0.03)
    alike = np.tile(level < 0.5, (10, 1))
    apart = rng.permuted(alike, axis=1)
    one, shared, own = (mean_interval(full(value)) for value in (alike[:1], alike, apart))
    assert shared.high - shared.low == pytest.approx(one.high - one.low)
    assert (own.high - own.low) / (one.high - one.low) == pytest.approx(10**-0.5, rel=0.05)  # no seed component here


def test_lengths_have_the_interval_of_a_mean() -> None:
    rng = np.random.default_rng(0)
    value = rng.binomial(5, rng.beta(2, 1, 1000))
    found = mean_interval(full(value[None]), 5)
    half = 1.96 * value.std() / 1000**0.5
    assert found == pytest.approx((value.mean(), value.mean() - half, value.mean() + half), abs=0.005)
    # Where all lengths are alike there is still an interval, and at the ends it is one-sided.
    for length, low, high in ((0, 0, 0.7), (3, 2, 4), (5, 4.3, 5)):
        found = mean_interval(full(np.full((1, 25), length)), 5)
        assert low <= found.low <= length <= found.high <= high and found.high - found.low > 0.3


def test_rows_become_a_grid() -> None:
    rng = np.random.default_rng(0)
    rows = list(itertools.product([3, 7], ["b", "a"], [10**12, 5]))[:-1]  # one episode is missing
    rng.shuffle(rows)
    seed, task, state = (np.array(column) for column in zip(*rows, strict=True))
    state = state.astype(np.int64)
    value = rng.random(len(rows)) < 0.5
    grid = grid_of(seed, task, state, value)
    assert (grid.n, grid.played.shape, grid.single_seed) == (7, (2, 4), False)
    assert grid.task.tolist() == [0, 0, 1, 1]
    for one, name, where, y in zip(seed, task, state, value, strict=True):
        place = [3, 7].index(int(one)), 2 * (name == "b") + (where == 10**12)
        assert grid.played[place] and grid.value[place] == y
    with pytest.raises(ValueError, match="at least one episode"):
        grid_of(*[np.empty(0)] * 4)
    with pytest.raises(ValueError, match="occurs twice"):
        grid_of(np.zeros(2), np.zeros(2), np.zeros(2), np.ones(2))


# The least covered cells of docs/statistics.md, those that older intervals failed most, and corners.
CELLS = [
    *[Cell("rate", 1, 1, n, rate) for n, rate in ((5, 0.02), (20, 0.5), (50, 0.98))],
    *[Cell("rate", 3, 4, 50, rate, "moderate", 0.1) for rate in (0.02, 0.2, 0.5)],
    Cell("rate", 3, 1, 5, 0.5, "strong", 0.1),
    Cell("rate", 5, 4, 50, 0.98, "none", 0.1),
    Cell("rate", 10, 1, 5, 0.2, "strong"),
    Cell("rate", 10, 4, 20, 0.02, "strong"),
    Cell("rate", 10, 1, 50, 0.98, "strong", 0.1),
    Cell("rate", 30, 1, 50, 0.02, "strong"),
    *[Cell("difference", 1, 1, n, 0.5, change=change) for n, change in ((10, 0.0), (20, 0.3), (50, 0.3))],
    Cell("difference", 1, 4, 60, 0.02, change=0.05, alike=0.999),
    Cell("difference", 1, 4, 5, 0.02, alike=0.8),
    Cell("difference", 3, 4, 60, 0.02, "none", 0.1, 0.05, 0.999),
    Cell("difference", 5, 4, 60, 0.02, "moderate", 0.1, 0.05, 0.999),
    Cell("difference", 10, 4, 5, 0.02, "strong", 0.0, 0.05),
    Cell("length", 1, 1, 20, 0.6, "moderate"),
    Cell("length", 3, 1, 50, 0.6, "moderate", 0.1),
    *[Cell("length", 10, 1, 50, rate, "strong") for rate in (0.02, 0.05)],
]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.kind}, {cell.seeds} × {cell}, {cell.shared}")
def test_intervals_cover_the_truth_in_at_least_93_of_100(cell: Cell) -> None:
    """12,000 replicates: two standard deviations of their coverage are at most half a point, and are asked for too."""
    rng, size = np.random.default_rng(6), 2000
    covered = float(
        np.mean([coverage(present(cell, grid), truth) for grid, truth in (draw(cell, size, rng) for _ in range(6))])
    )
    assert covered - 2 * (covered * (1 - covered) / (6 * size)) ** 0.5 >= 0.93
