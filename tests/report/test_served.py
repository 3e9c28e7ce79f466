"""Policies that somebody else serves, in the report."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pirl_core.errors import UserError
from pirl_core.params.file import resolve
from pirl_core.params.sections import Params
from tests.report.made_up import COUNTS, N, build, fill, make_params


def add_served(outputs: Path, params: Params, **changed: Any) -> Path:
    """One that succeeds as ``flow_sde`` of training seed 0 does."""
    folder = outputs / "evaluate/tiny-theirs-0"
    folder.mkdir()
    table = pd.read_parquet(outputs / "evaluate/tiny-flow_sde-0/episodes.parquet")
    table.assign(method="theirs", model="pi0").to_parquet(folder / "episodes.parquet", index=False)
    run = resolve(params, "tiny")
    played = {"env": run.env.model_dump(mode="json") | changed, "evaluate": run.evaluate.model_dump(mode="json")}
    record = {"server": "ws://gpu:8000", "protocol": "openpi", "policy": "pi0", "noise": "server", "params": played}
    (folder / "served.json").write_text(json.dumps(record))
    return folder


def test_a_served_policy_stands_in_a_table_of_its_own(tmp_path: Path) -> None:
    """And moves no other number; what was played under another protocol is left out."""
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    build(tmp_path, params)
    metrics, report = ((tmp_path / "results" / name).read_text() for name in ("metrics.json", "report.md"))
    assert "Served by others" not in report
    folder = add_served(tmp_path / "outputs", params)
    build(tmp_path, params)
    found = json.loads((tmp_path / "results/metrics.json").read_text())
    rows = {row["split"]: row for row in found.pop("served")}
    assert found == json.loads(metrics)
    for split, row in rows.items():
        assert (row["successes"], row["n"]) == (sum(COUNTS[split, "flow_sde"].values()), 2 * N)
        assert row["ci_low"] < row["rate"] < row["ci_high"] and row["single_seed"]
        assert (row["experiment"], row["policy"], row["noise"]) == ("tiny", "theirs", "server")
    assert set(rows) == {"id", "ood:visual"}
    said = (tmp_path / "results/report.md").read_text()
    assert "## Served by others" in said and "| tiny | theirs | ID | 40 | 75.0 |" in said
    assert "Served by others" in (tmp_path / "outputs/report/report.html").read_text()
    (folder / "served.json").unlink()
    (folder / "episodes.parquet").unlink()
    folder.rmdir()
    add_served(tmp_path / "outputs", params, episode_steps=7)
    build(tmp_path, params)
    assert (tmp_path / "results/metrics.json").read_text() == metrics
    assert (tmp_path / "results/report.md").read_text() == report


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    folder = add_served(tmp_path / "outputs", params)
    (folder / "served.json").write_text('{"server": 3}')
    with pytest.raises(UserError, match=r"served\.json: server = 3: .*evaluate it again, or delete its folder"):
        build(tmp_path, params)
