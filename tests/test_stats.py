"""Intervals against scipy, closed forms, a brute-force bootstrap and simulated coverage."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pirl_core.stats import bootstrap_mean, count_cells, paired_difference, success_rate, wilson

BINARY = np.array([0, 1])


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_equals_scipy(case: tuple[int, int]) -> None:
    k, n = case
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_is_elementwise_and_exact_at_the_ends() -> None:
    low, high = wilson(np.array([0, 10, 5, 0]), np.array([10, 10, 10, 0]))
    assert low[0] == 0
    assert high[1] == 1
    assert low[1] == pytest.approx(1 - high[0])
    assert low[2] == pytest.approx(1 - high[2])
    assert (low[3], high[3]) == (0, 1)
    with pytest.raises(ValueError, match="between 0 and n"):
        wilson(3, 2)


def test_count_cells_counts_each_seed_task_value() -> None:
    rng = np.random.default_rng(0)
    seed, task = rng.choice([3, 7], 500), rng.choice(["a", "b", "c"], 500)
    value = rng.choice([-1, 0, 1], 500)
    counts = count_cells(seed, task, value, np.array([-1, 0, 1]))
    for s, t, v in np.ndindex(counts.shape):
        assert counts[s, t, v] == np.sum((seed == [3, 7][s]) & (task == "abc"[t]) & (value == v - 1))


def test_bootstrap_with_one_seed_has_the_variance_of_stratified_sampling() -> None:
    # Var(rate) = sum_t n_t p_t (1 - p_t) / N^2: differences between tasks do not widen the interval.
    k, n = np.array([5, 95, 50]), np.array([100, 100, 100])
    counts = np.stack([n - k, k], -1)[None]
    low, high = bootstrap_mean(counts, BINARY, 40_000, np.random.default_rng(0))
    std = np.sqrt(np.sum(k * (n - k) / n)) / n.sum()
    assert (high - low) / 2 == pytest.approx(1.96 * std, rel=0.04)
    assert (low + high) / 2 == pytest.approx(k.sum() / n.sum(), abs=0.003)


def test_bootstrap_equals_drawing_episodes_one_by_one() -> None:
    rng = np.random.default_rng(1)
    outcome = rng.random((3, 4, 25)) < rng.random((3, 4, 1))  # (seeds, tasks, episodes)
    means = []
    for _ in range(4000):
        drawn = [
            rng.choice(outcome[s, t], 25) for s in rng.integers(3, size=3) for t in range(4)
        ]  # one draw of seeds serves all tasks
        means.append(np.mean(drawn))
    counts = np.stack([(~outcome).sum(-1), outcome.sum(-1)], -1)
    interval = bootstrap_mean(counts, BINARY, 20_000, rng)
    assert interval == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.012)


def test_seeds_that_differ_widen_the_bootstrap_but_not_wilson() -> None:
    task, success = np.repeat("a", 200), np.tile([1, 0], 100).astype(bool)
    alike = success_rate(np.repeat([0, 1], 100), task, success, 4000, np.random.default_rng(0))
    apart = success_rate(np.tile([0, 1], 100), task, success, 4000, np.random.default_rng(0))
    assert (alike.ci_low, alike.ci_high) == (apart.ci_low, apart.ci_high)
    assert (apart.boot_low, apart.boot_high) == (0, 1)
    assert alike.boot_high - alike.boot_low < 0.2


def test_both_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(2)
    p = np.linspace(0.2, 0.8, 8)
    task, seed = np.repeat(np.arange(8), 30), np.zeros(240)
    boot = ci = 0
    for _ in range(400):
        rate = success_rate(seed, task, rng.random(240) < p[task], 400, rng)
        boot += rate.boot_low <= 0.5 <= rate.boot_high
        ci += rate.ci_low <= 0.5 <= rate.ci_high
    assert 0.91 <= boot / 400 <= 0.985
    assert ci / 400 >= 0.94  # Wilson ignores the strata, hence is a little wide


def test_paired_interval_covers_a_known_difference_and_beats_the_unpaired_one() -> None:
    rng = np.random.default_rng(3)
    covered = narrower = 0
    for _ in range(300):
        level = rng.random(200)  # the difficulty of the initial state, shared by both policies
        before, after = level < 0.4, level - 0.25 < 0.4
        after = np.where(rng.random(200) < 0.1, rng.random(200) < 0.5, after)
        truth = 0.9 * 0.65 + 0.1 * 0.5 - 0.4
        task, seed = np.arange(200) % 4, np.zeros(200)
        change = paired_difference(seed, task, before, after, 400, rng)
        covered += change.low <= truth <= change.high
        parts = [
            bootstrap_mean(count_cells(seed, task, x.astype(int), BINARY), BINARY, 400, rng) for x in (before, after)
        ]
        unpaired = np.hypot(parts[0][1] - parts[0][0], parts[1][1] - parts[1][0])
        narrower += change.high - change.low < unpaired
    assert 0.90 <= covered / 300 <= 0.99
    assert narrower > 290


def test_difference_closed_forms() -> None:
    rng = np.random.default_rng(0)
    zero, one, task = np.zeros(6, bool), np.ones(6, bool), np.array(list("aabbcc"))
    assert paired_difference(zero, task, zero, one, 200, rng) == (1, 1, 1, 6)
    assert paired_difference(zero, task, one, one, 200, rng) == (0, 0, 0, 6)
    mixed = paired_difference(zero, task, zero, np.array([1, 0, 1, 0, 1, 0]), 200, rng)
    assert mixed.diff == 0.5
    assert mixed.low < 0.5 < mixed.high


def test_one_episode_no_success_and_unequal_tasks() -> None:
    rng = np.random.default_rng(0)
    one = success_rate(np.array([0]), np.array(["a"]), np.array([False]), 100, rng)
    assert one[:3] == (1, 0, 0)
    assert one.ci_low == 0
    assert 0.7 < one.ci_high < 0.9
    assert one[5:] == (0, 0)
    # Seed 1 has no episode of task b: the cell is empty, the rest still counts.
    seed, task = np.array([0, 0, 1]), np.array(["a", "b", "a"])
    rate = success_rate(seed, task, np.array([True, False, True]), 500, rng)
    assert rate.rate == pytest.approx(2 / 3)
    assert 0 <= rate.boot_low <= rate.boot_high <= 1


def test_no_episode_is_an_error_and_the_stream_fixes_the_result() -> None:
    empty = np.empty(0)
    with pytest.raises(ValueError, match="at least one episode"):
        success_rate(empty, empty, empty, 100, np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least one pair"):
        paired_difference(empty, empty, empty, empty, 100, np.random.default_rng(0))
    args = (np.zeros(50), np.arange(50) % 5, np.arange(50) % 3 == 0, 300)
    assert success_rate(*args, np.random.default_rng(4)) == success_rate(*args, np.random.default_rng(4))
