"""results/<scale>/curves.parquet, and the rows of policies that explored."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pirl_core.errors import UserError
from pirl_core.params.sections import EXPLORING, EXPLORING_BEFORE
from pirl_core.report.build import build_report
from pirl_core.report.tables import results_table
from tests.report.made_up import COUNTS, EASY, MEDIUM, build, fill, make_params, recompute, text_of, told, unchanged

COLUMNS = ["stage", "experiment", "method", "seed", "metric", "step", "value"]
EXPLORED = {
    (split, method): {EASY: wins, MEDIUM: 0}
    for method in ("flow_sde", "flow_noise")
    for split, wins in ((EXPLORING, 9), (EXPLORING_BEFORE, 3))
}


def test_every_point_of_every_listed_run_is_there(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    timing = tmp_path / "outputs/rl/tiny-flow_sde-0/timing.jsonl"
    timing.write_text('{"step": 1, "time/rollout_seconds": 2.5, "charts/SPS": null}\n')
    (tmp_path / "outputs/rl/gone-flow_sde-0").mkdir()
    build(tmp_path, params)
    table = pd.read_parquet(tmp_path / "results/curves.parquet")
    assert list(table.columns) == COLUMNS and table["value"].dtype == float
    assert table.equals(table.sort_values(COLUMNS[:6], ignore_index=True))
    runs = {(stage, experiment, method, seed) for stage, experiment, method, seed in table[COLUMNS[:4]].to_numpy()}
    methods = {"sft": [""], "rl": ["flow_sde", "flow_noise"]}
    wanted = {(s, e, m, n) for s in methods for e in ("tiny", "state") for m in methods[s] for n in (0, 1)}
    assert runs == wanted
    assert len(table) == len(wanted) * 2 * 3 + 1
    one = table[(table["stage"] == "rl") & (table["method"] == "flow_sde") & (table["experiment"] == "tiny")]
    success = one[(one["seed"] == 0) & (one["metric"] == "validation/success")]
    assert success[["step", "value"]].to_numpy().tolist() == [[0, 0.25], [1, 0.5], [2, 0.75]]
    assert one[one["metric"] == "time/rollout_seconds"][["step", "value"]].to_numpy().tolist() == [[1, 2.5]]


def explore(data: dict[str, Any]) -> None:
    data["evaluate"]["exploring_episodes_per_task"] = 20


def test_exploring_rows_stand_apart(tmp_path: Path) -> None:
    plain, params = make_params(tmp_path), make_params(tmp_path, explore)
    fill(tmp_path / "plain/outputs", plain)
    before = build(tmp_path / "plain", plain)
    fill(tmp_path / "outputs", params, COUNTS | EXPLORED)
    after = build(tmp_path, params)
    rows = after.pop("exploring")
    assert after == before and "exploring" not in before
    for name in ("success.json", "learning.svg"):
        assert (tmp_path / "results" / name).read_bytes() == (tmp_path / "plain/results" / name).read_bytes()
    assert results_table(after) == results_table(before)
    found = {(row["experiment"], row["method"], row["split"]): (row["successes"], row["n"]) for row in rows}
    assert found == {
        (experiment, method, split): (wins[EASY] * 2, 80)
        for experiment in ("tiny", "state")
        for (split, method), wins in EXPLORED.items()
    }
    assert all(row["ci_low"] < row["rate"] < row["ci_high"] for row in rows)
    page, twin = (tmp_path / path for path in ("outputs/report/report.html", "results/report.md"))
    line = [row for row in twin.read_text().splitlines() if row.startswith("| tiny | Flow-Noise | SFT |")]
    assert len(line) == 1 and " 7.5 |" in line[0]
    assert "While exploring" in text_of(page.read_text())
    assert "exploring" not in (tmp_path / "plain/results/report.md").read_text()
    assert len(pd.read_parquet(tmp_path / "results/episodes.parquet")) == 160 * (len(COUNTS) + len(EXPLORED))
    assert recompute(tmp_path / "results")[0].keys() == told(tmp_path / "results")[0].keys()


@pytest.mark.parametrize("missing", ["exploring", "plain"])
def test_a_table_has_the_sets_that_its_policy_plays(missing: str, tmp_path: Path) -> None:
    params = make_params(tmp_path, explore if missing == "exploring" else lambda _: None)
    fill(tmp_path / "outputs", params, COUNTS | ({} if missing == "exploring" else EXPLORED))
    with pytest.raises(UserError, match=r"outputs/evaluate/tiny-flow_sde-0/episodes.parquet holds the splits"):
        build_report(params, tmp_path / "outputs", tmp_path / "results", unchanged)
    assert not list(tmp_path.glob("results/*"))
