"""The ring against a plain list."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.rl.sac.replay import Replay, Transitions


def rows(start: int, count: int) -> Transitions:
    number = np.arange(start, start + count, dtype=np.float32)
    return Transitions(
        np.stack([number, -number], 1),
        number[:, None, None] * np.ones((1, 2, 3)),
        number,
        number[:, None] + [1, 2],
        number,
    )


@given(st.integers(1, 9), st.lists(st.integers(0, 9), max_size=8), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_it_keeps_the_last_rows_and_goes_on_from_its_state(size: int, counts: list[int], seed: int) -> None:
    ring, start = Replay(size, 2, (2, 3)), 0
    kept: list[int] = []
    for count in (min(count, size) for count in counts):
        ring.add(rows(start, count))
        kept = [*kept, *range(start, start + count)][-size:]
        start += count
    assert len(ring) == len(kept)
    state = ring.state()
    assert state["reward"].tolist() == kept
    again = Replay(size, 2, (2, 3))
    again.restore(state)
    if not kept:
        return
    drawn = ring.draw(np.random.default_rng(seed), 50)
    assert set(drawn.reward.tolist()) <= set(map(float, kept))
    assert (drawn.state[:, 0] == drawn.reward).all() and (drawn.action[:, 1, 2] == drawn.reward).all()
    assert (drawn.next_state[:, 1] == drawn.reward + 2).all() and (drawn.terminated == drawn.reward).all()


def test_every_row_is_drawn_equally_often() -> None:
    ring = Replay(8, 2, (2, 3))
    ring.add(rows(0, 8))
    ring.add(rows(8, 3))
    drawn = ring.draw(np.random.default_rng(0), 80_000).reward
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == list(range(3, 11))
    assert counts == pytest.approx(10_000, rel=0.05)
