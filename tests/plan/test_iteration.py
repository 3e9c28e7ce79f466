"""The model of an iteration: sums and maxima where they can be written down, and a twin that counts ticks elsewhere."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.plan.events import Clock, Cores, speed
from pirl_core.plan.iteration import STEPS, Costs, Layout, Work, _number, forecast, learn, ring, rollout
from tests.plan import stepped

COSTS = Costs(
    reset=0.002, chunk=0.02, spread=0.0, crowding=1.0, message=0.001, row=0.0002, latency=0.0005, infer=0.01,
    infer_row=0.001, account=1e-5, update=0.02, update_row=0.0003, hop=1e-5, bandwidth=1e9,
)  # fmt: skip
FREE = COSTS._replace(message=0.0, row=0.0, latency=0.0, reset=0.0, account=0.0)
WORK = Work(8, 5, 10, False, 2, 20, None, 1e6)
ONE = Layout(ranks=1, slots=8, workers=1, cores=64)


def seconds(costs: Costs, layout: Layout, work: Work = WORK) -> float:
    return float(rollout(costs, layout, work, np.full(layout.ranks, layout.slots), 0, 0).sum(axis=1).max())


def test_one_worker_is_a_sum() -> None:
    """Reset, then of each decision inference, message there and back, and eight chunks one after another."""
    call = COSTS.message + 8 * COSTS.row + COSTS.latency
    decision = COSTS.infer + 8 * COSTS.infer_row + call + 8 * COSTS.chunk
    assert seconds(COSTS, ONE) == pytest.approx(call + 8 * COSTS.reset + 5 * decision)
    asked = seconds(COSTS, ONE, WORK._replace(bootstrap=True))
    assert asked == pytest.approx(seconds(COSTS, ONE) + COSTS.infer + 8 * COSTS.infer_row)
    update = 2 * (2 * COSTS.update + 40 * COSTS.update_row)
    said = forecast(COSTS, ONE, WORK, 0)
    assert said.seconds == pytest.approx(call + 8 * COSTS.reset + 5 * decision + 40 * COSTS.account + update)
    assert said.sps == pytest.approx(40 * 10 / said.seconds)
    assert said.shares["simulate"] == pytest.approx(
        (8 * COSTS.reset + 40 * COSTS.chunk + 6 * COSTS.latency) / said.seconds
    )
    assert sum(said.shares.values()) == pytest.approx(1) and said.shares["all-reduce"] == 0
    assert said.bottleneck == "simulate"


def test_equal_workers_work_at_once_and_the_last_is_waited_for() -> None:
    alone = 5 * (COSTS.infer + 8 * COSTS.infer_row + 2 * COSTS.chunk)
    assert seconds(FREE, ONE._replace(workers=4)) == pytest.approx(alone)
    # Eight slots of three workers: two have three of them.
    assert seconds(FREE, ONE._replace(workers=3)) == pytest.approx(alone + 5 * COSTS.chunk)


def test_workers_beyond_the_cores_take_turns() -> None:
    """As long as all their work on the cores, and longer where busy cores slow one another."""
    layout, infer = ONE._replace(workers=8, cores=2), 5 * (COSTS.infer + 8 * COSTS.infer_row)
    assert seconds(FREE, layout) == pytest.approx(infer + 5 * 4 * COSTS.chunk)
    crowded = FREE._replace(crowding=1.5)
    assert seconds(crowded, layout) == pytest.approx(infer + 5 * 4 * COSTS.chunk * 1.5)
    assert seconds(FREE, layout._replace(machines=4)) == pytest.approx(infer + 5 * COSTS.chunk)


def test_cores_are_shared_evenly() -> None:
    """Three jobs of 1, 2 and 3 s on two cores: the first ends at 1.5, the second at 2.5 (both then alone), the last."""
    clock, ended = Clock(), dict[int, float]()
    cores = Cores(clock, 2, 1.0)
    for work in (1, 2, 3):
        cores.run(work, lambda work=work: ended.update({work: clock.now}))  # type: ignore[misc]
    clock.run()
    assert ended == pytest.approx({1: 1.5, 2: 2.5, 3: 3.5})
    assert [speed(jobs, 4, 1.3) for jobs in (1, 4, 8)] == pytest.approx([1, 1 / 1.3, 0.5 / 1.3])


def test_a_ring() -> None:
    """Each rank sends 2(n−1)/n of the bytes, in 2(n−1) hops (Patarasuk and Yuan 2009)."""
    assert ring(1e9, 1, 1e-5, 1e9) == 0
    for ranks in (2, 8, 256):
        assert ring(1e9, ranks, 0.0, 1e9) == pytest.approx(2 * (ranks - 1) / ranks)
        assert ring(0, ranks, 1e-5, 1e9) == pytest.approx(2 * (ranks - 1) * 1e-5)


@pytest.mark.parametrize("infer", [0.001, 0.04, 0.2])
def test_two_groups_take_the_longer_of_the_two(infer: float) -> None:
    """Of simulation and inference, but for the first and the last round."""
    costs, work = FREE._replace(infer=0.0, infer_row=infer / 8), WORK._replace(decisions=200)
    layout = ONE._replace(workers=4)
    one, two = (seconds(costs, layout._replace(groups=groups), work) / 200 for groups in (1, 2))
    simulate = 2 * COSTS.chunk
    assert one == pytest.approx(infer + simulate)
    assert two == pytest.approx(max(infer, simulate), rel=0.01)


def test_the_slowest_rank_is_waited_for() -> None:
    """Minibatches are drawn from the decisions of all, so a rank has more of one or less; together they have all."""
    layout = Layout(4, 2, 1, 64, accelerated=True)
    own, wait, exchange = learn(FREE._replace(update=0.0), layout, WORK, np.full(4, 10), 0)
    assert own.sum() == pytest.approx(2 * 40 * COSTS.update_row)
    assert own + wait == pytest.approx(np.full(4, (own + wait)[0])) and wait.max() > 0
    assert exchange == pytest.approx(4 * (ring(1e6, 4, 1e-5, 1e9) + 2 * ring(0, 4, 1e-5, 1e9)))
    parts = learn(FREE, layout, WORK._replace(micro=1), np.full(4, 10), 0)[0]
    assert parts.min() > own.min() + 4 * 5 * COSTS.update


SLOWER = ("reset", "chunk", "crowding", "message", "row", "latency", "infer", "infer_row", "account", "update", "hop")


@settings(max_examples=30, deadline=None)
@given(
    name=st.sampled_from(SLOWER),
    factor=st.floats(1, 5),
    ranks=st.integers(1, 3),
    workers=st.integers(1, 5),
    groups=st.integers(1, 2),
    accelerated=st.booleans(),
)
def test_what_costs_more_takes_longer(
    name: str, factor: float, ranks: int, workers: int, groups: int, accelerated: bool
) -> None:
    layout = Layout(ranks, 6, workers, 3, groups, ranks, 0, accelerated)
    costs, work = COSTS._replace(crowding=1.1, spread=0.3), WORK._replace(episodes=6 * ranks)
    cheap = forecast(costs, layout, work, 0)
    dear = forecast(costs._replace(**{name: factor * getattr(costs, name)}), layout, work, 0)
    # With one group nothing overlaps, so that nothing can be gained by a delay.
    assert dear.seconds >= cheap.seconds * (1 - (1e-9 if groups == 1 else 0.05))


def test_more_cores_and_workers_take_no_longer() -> None:
    spent = [seconds(COSTS, ONE._replace(workers=8, cores=cores)) for cores in (1, 2, 4, 8)]
    assert spent == sorted(spent, reverse=True)
    many = [forecast(FREE, ONE._replace(workers=n), WORK, 0).sps for n in (1, 2, 4, 8)]
    assert many == sorted(many)


def test_it_is_a_function_of_the_seed() -> None:
    costs = COSTS._replace(spread=0.5)
    layout, work = Layout(2, 4, 2, 4), WORK._replace(episodes=16)
    first, again, other = (forecast(costs, layout, work, seed) for seed in (0, 0, 1))
    assert first == again and first.seconds != other.seconds
    assert first.seconds == pytest.approx(other.seconds, rel=0.2) and first.shares["stragglers"] > 0


def test_rounds_of_episodes_are_alike() -> None:
    """Three and a half times as many episodes as slots: four rounds, of which the last has fewer slots."""
    one = seconds(COSTS, ONE)
    half = float(rollout(COSTS, ONE, WORK, np.array([4]), 0, 1).sum())
    work = WORK._replace(episodes=28, epochs=1, minibatch=10**6)
    said = forecast(COSTS, ONE, work, 0)
    update = COSTS.update + 140 * (COSTS.update_row + COSTS.account)
    assert said.seconds == pytest.approx(3 * one + half + update)


@pytest.mark.parametrize(
    "layout",
    [
        Layout(1, 4, 1, 1),
        Layout(1, 5, 3, 2),
        Layout(1, 6, 4, 2, accelerated=False),
        Layout(2, 4, 2, 2, together=2, accelerated=False),
        Layout(3, 3, 2, 4, together=3),
    ],
)
@pytest.mark.parametrize("changes", [{}, {"spread": 0.6, "crowding": 1.4}])
def test_events_are_as_ticks_would_have_it(layout: Layout, changes: dict[str, Any]) -> None:
    costs = COSTS._replace(**changes)
    work = WORK._replace(decisions=3)
    slots = [layout.slots - rank % 2 for rank in range(layout.ranks)]
    said = rollout(costs, layout, work, np.array(slots), 0, 0).sum(axis=1)
    ticks = stepped.rollout(costs, layout, work, slots, [_number(0, 0, rank) for rank in range(layout.ranks)], 2e-5)
    assert said == pytest.approx(np.array(ticks), rel=0.01)
    assert len(STEPS) == 8
