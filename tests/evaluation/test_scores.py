"""Returns where there is no success: their bootstrap, and what compares and shows them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pirl_core.commands.compare import compare, load, render
from pirl_core.errors import UserError
from pirl_core.evaluation.scores import bootstrap, mean_of, score_of, values
from pirl_core.evaluation.stats import grid_of, mean_interval
from pirl_core.report.metrics import build_metrics, build_success
from pirl_core.report.tables import amount, differences_table, rates_table
from tests.report.made_up import make_params

EPISODES, SEEDS = 40, (0, 1, 2)


def table(method: str, level: float, scored: bool = False) -> pd.DataFrame:
    """Of three seeds; each state adds the same to all policies."""
    rows = []
    for seed in SEEDS:
        states = np.random.default_rng(7).normal(0, 300, EPISODES)
        own = np.random.default_rng((seed, int(level))).normal(0, 50, EPISODES)
        returns = level + 10 * seed + states + own
        rows += [("e", method, seed, "id", "Hopper-v5", n, None, 90, returns[n]) for n in range(EPISODES)]
    names = ["experiment", "method", "seed", "split", "task", "env_seed", "success", "steps", "reward"]
    frame = pd.DataFrame(rows, columns=names)
    return frame.assign(success=pd.array([scored or None] * len(frame), "boolean"))


def test_the_bootstrap_agrees_with_the_normal_limits_and_repeats_itself() -> None:
    """Of one seed: the mean ± 1.96 standard errors. Of several, seeds that differ widen it."""
    rng = np.random.default_rng(0)
    value = rng.normal(1000, 200, 400)
    names = np.zeros(400, int), np.array(["t"] * 400), np.arange(400)
    found = bootstrap(grid_of(*names, value))
    half = 1.96 * value.std() / 20
    assert found.mean == pytest.approx(value.mean())
    assert [found.mean - found.low, found.high - found.mean] == pytest.approx([half, half], rel=0.08)
    again = bootstrap(grid_of(*names, value))
    assert (found.low, found.high) == (again.low, again.high)
    seed = np.repeat(np.arange(4), 100)
    same, apart = (bootstrap(grid_of(seed, names[1], np.tile(np.arange(100), 4), value + by * seed)) for by in (0, 300))
    assert apart.high - apart.low > 3 * (same.high - same.low)


def test_tasks_are_strata() -> None:
    """However far apart their returns are, only what varies within a task makes the interval wide."""
    task = np.repeat(["a", "b"], 30)
    value = np.where(task == "a", 0.0, 5000.0)
    found = bootstrap(grid_of(np.zeros(60, int), task, np.arange(60), value))
    assert found.low == found.mean == found.high == 2500


def test_a_success_rate_keeps_its_closed_form() -> None:
    frame = table("sft", 0, scored=True)
    grid = grid_of(frame["seed"].to_numpy(), frame["task"].to_numpy(str), frame["env_seed"].to_numpy(), np.ones(120))
    assert score_of(frame) == "success" and (values(frame, "success") == 1).all()
    assert mean_of(grid, "success") == mean_interval(grid)


def test_comparison_speaks_of_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, frame in (("a", table("sft", 1400)), ("b", table("rl", 2600)), ("c", table("rl", 0, scored=True))):
        (tmp_path / name).mkdir()
        frame.to_parquet(tmp_path / name / "episodes.parquet", index=False)
    a, b, c = load("a"), load("b"), load("c")
    rows = compare(a, b, False)
    assert rows[0]["difference"]["mean"] == pytest.approx(1200, abs=30) and rows[0]["pairs"] == 120
    # The states are shared: paired, they cancel.
    assert rows[0]["difference"]["high"] - rows[0]["difference"]["low"] < rows[0]["a"]["high"] - rows[0]["a"]["low"]
    text = render(a, b, rows)
    assert "B return" in text and "B − A, return" in text and "B %" not in text and "successes" not in rows[0]["a"]
    with pytest.raises(UserError, match="a counts by return and c by success"):
        compare(a, c, False)


def test_the_report_has_returns_in_place_of_rates(tmp_path: Path) -> None:
    def edit(data: dict) -> None:
        data["experiments"] = {"e": {**data["experiments"]["state"]}}
        data["policies"], data["methods"], data["seeds"] = ["sft", "rl"], {"rl": {}}, [0, 1, 2]
        data["env"] |= {"benchmark": "gymnasium", "tasks": ["Hopper-v5"], "cameras": [], "object_state": True}
        data["evaluate"]["splits"] = {"id": {"tasks": None, "shift": "none", "episodes_per_task": EPISODES}}

    params = make_params(tmp_path, edit)
    metrics = build_metrics(params, pd.concat([table("sft", 1400), table("rl", 2600)], ignore_index=True))
    header, cells = rates_table(metrics)
    assert "return" in header and "success %" not in header
    assert cells[1][header.index("return")] == amount(metrics["rows"][1]["rate"])
    header, cells = differences_table(metrics)
    assert header[4] == "RL − SFT, return" and cells[0][4].startswith("+1")
    found = build_success(metrics)["e"]["rl"]["id"]
    assert found["low"] < found["return"] < found["high"] and "success" not in found
    assert found["rl_minus_sft"]["return"] == pytest.approx(1200, abs=30)
