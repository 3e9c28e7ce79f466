"""Normalisation of numbers that hardly vary: bounded in every mode, plain for all others, and told."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pirl_core.data import curate
from pirl_core.data.variation import hardly_varying, variation_notes
from pirl_core.params import sections as params
from pirl_core.params.sizes import Mode
from pirl_core.policy.normalize import (
    LIMIT,
    MIN_SCALE,
    STILL_SCALE,
    USED,
    fit,
    published,
)
from pirl_core.stages import curate as stage
from tests.data.test_data import make_episode
from tests.params.probes import BASE, SEEING, job

MODES = get_args(Mode)


def plain(values: np.ndarray, mode: Mode) -> tuple[float, float]:
    """Centre and scale by the textbook."""
    if mode == "mean_std":
        return values.mean(), values.std()
    low, high = np.quantile(values, [0.01, 0.99]) if mode == "quantile" else (values.min(), values.max())
    return (low + high) / 2, (high - low) / 2


@st.composite
def columns(draw: st.DrawFn) -> np.ndarray:
    """(N, 1) float32: a body of one value or of many, some rare others, any unit and offset."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 400))
    body = rng.standard_normal(count) * draw(st.sampled_from([0.0, 0.0, 1e-6, 1e-3, 1.0]))
    rare = rng.integers(0, count, draw(st.integers(0, 3)))
    body[rare] += draw(st.floats(-1e4, 1e4, width=32))
    column: np.ndarray = body * draw(st.sampled_from([1e-3, 1.0, 1e3])) + draw(st.sampled_from([0.0, -1.0, 1e6]))
    return column[:, None].astype(np.float32)


@given(columns(), st.sampled_from(MODES), st.floats(-1e6, 1e6))
@settings(max_examples=400, deadline=None)
def test_normalised_numbers_are_bounded(values: np.ndarray, mode: Mode, distance: float) -> None:
    """Those of the demonstrations by LIMIT, all others by their distance from the centre in simulator units; and where
    the textbook's map keeps both bounds, it is the map, bit for bit."""
    (center,), (scale,) = fit(values, mode)
    inside = (values.astype(np.float64) - center) / scale
    assert np.abs(inside).max() <= LIMIT * (1 + 1e-9)
    assert abs(distance / scale) <= abs(distance) / MIN_SCALE
    middle, spread = plain(values[:, 0].astype(np.float64), mode)
    if spread >= MIN_SCALE and np.abs(values - middle).max() <= LIMIT * spread:
        assert (center, scale) == (middle, spread)
    # Half a range, not a hair of it: nothing of the demonstrations is lost in its map.
    if np.ptp(values) > 2 * LIMIT * MIN_SCALE:
        assert np.ptp(inside) >= 1


@pytest.mark.parametrize("mode", MODES)
def test_a_rare_grip_and_a_light_that_never_shone(mode: Mode) -> None:
    """1 frame of 129 has equal quantiles: +1 was 200, and the loss of SFT with it."""
    grip, light = np.full(129, -1.0), np.zeros(129)
    grip[7] = 1.0
    found = fit(np.stack([grip, light], 1), mode)
    assert found.center[0] == 0 and found.scale[0] == 1
    assert (0 - found.center[1], 1 / found.scale[1]) == (0, 1 / STILL_SCALE)


@given(
    st.sampled_from(MODES),
    st.sampled_from([0.0, 1e-8, 1e-6]),
    st.floats(-5, 5),
    st.floats(0, 5e-5),
    st.dictionaries(st.sampled_from(["std", "min", "max"]), st.sampled_from([0.0, 0.2, 2.0, np.nan, np.inf])),
    st.floats(-10, 10),
)
@settings(max_examples=300, deadline=None)
def test_a_published_number_without_spread_is_read_where_its_model_saw_it(
    mode: Mode, epsilon: float, value: float, spread: float, others: dict[str, float], distance: float
) -> None:
    """And elsewhere by a distance that is bounded, whatever the statistics say besides."""
    lower, upper = USED[mode]
    own = {lower: [value], upper: [spread if mode == "mean_std" else value + spread]}
    found = published({key: [x] for key, x in others.items()} | own, mode, epsilon)
    seen = (value - found.center[0]) / found.scale[0]
    assert seen == pytest.approx(0 if mode == "mean_std" or epsilon == 0 else -1, abs=1e-9)
    away = (value + distance - found.center[0]) / found.scale[0] - seen
    assert abs(away) <= abs(distance) / STILL_SCALE + 1e-9


@given(st.integers(50, 300), st.data())
@settings(max_examples=60, deadline=None)
def test_every_number_that_hardly_varies_is_told(count: int, data: st.DataObject) -> None:
    """By a count of equal values; a line for each that sometimes varies, one for those that never do."""
    others = [data.draw(st.integers(0, count // 20)) for _ in range(4)]
    values = np.zeros((count, 4))
    for number, rare in enumerate(others):
        values[:rare, number] = 1 + np.arange(rare)
    share = {number: 1 - rare / count for number, rare in enumerate(others)}
    told = {number: x for number, x in share.items() if x >= 0.98}
    assert hardly_varying(values) == pytest.approx(told)
    lines = variation_notes("action", ["x"], values)
    some = sum(x < 1 for x in told.values())
    assert len(lines) == some + any(x == 1 for x in told.values())
    if others[0] == 0:
        assert "0 (x)" in lines[-1] and "never vary" in lines[-1]
    elif 0 in told:
        assert lines[0].startswith(f"action number 0 (x) has one value in {100 * share[0]:.1f} %")


def test_curation_tells_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the stage's output and beside the dataset."""
    monkeypatch.chdir(tmp_path)

    def shown(*_: Any) -> Any:
        for seed in range(2):
            episode = make_episode(np.random.default_rng(seed), 0, 9, cameras=1)
            episode.actions[:, 3], episode.state[:, 2] = -1, 0.25
            yield episode

    monkeypatch.setattr(curate, "demonstrations", shown)
    stage.run(job("curate", env=SEEING, curate=params.Curate.model_validate(BASE["Curate"])))
    noted = json.loads(Path("outputs/curate/e/meta/curation.json").read_text())["hardly_varying"]
    assert any(line.startswith("state numbers that never vary") and "2 (" in line for line in noted)
    assert any(line.startswith("action numbers that never vary") and "3 (" in line for line in noted)
    out = capsys.readouterr().out
    assert all(f"[curate e] note: {line}\n" in out for line in noted)
