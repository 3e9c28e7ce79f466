"""results/<scale>/: enough to compute the intervals again, in DVC's form, and no other scale's business."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from pirl_core.report.metrics import build_success, to_json
from pirl_core.report.show import main as show
from pirl_core.stages.cli import report_main
from pirl_core.stages.report import run
from tests.report.made_up import SEED, build, edit_record, fill, make_params, recompute, told, unchanged

COLUMNS = ["experiment", "method", "seed", "split", "task", "env_seed", "success", "return", "steps"]


def test_intervals_can_be_computed_from_the_episodes(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    build(tmp_path, params)
    for mine, theirs in zip(recompute(tmp_path / "results"), told(tmp_path / "results"), strict=True):
        assert mine.keys() == theirs.keys() and len(mine) > 7
        for key, numbers in theirs.items():
            assert mine[key] == pytest.approx(numbers, abs=1e-6), key


def test_equal_episodes_are_equal_bytes(tmp_path: Path) -> None:
    """In whatever order, with whatever columns beside them and however pandas holds them."""
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    build(tmp_path, params)
    path = tmp_path / "results/episodes.parquet"
    before = path.read_bytes()
    for file in (tmp_path / "outputs/evaluate").glob("*/episodes.parquet"):
        frame = pd.read_parquet(file).sample(frac=1, random_state=0).assign(own=1, env_seed=lambda f: f["env_seed"] + 0)
        frame["task"] = frame["task"].astype("category")
        frame.set_index("episode").to_parquet(file)
    build(tmp_path, params)
    assert path.read_bytes() == before
    rows = pd.read_parquet(path)
    assert list(rows.columns) == COLUMNS and rows["env_seed"].dtype == "int64" and rows["success"].dtype == bool
    assert rows.equals(rows.sort_values(COLUMNS[:6], ignore_index=True))
    assert SEED > 2**50  # such a seed is whole in the table
    wins = rows[(rows["experiment"] == "tiny") & (rows["method"] == "flow_sde") & (rows["split"] == "id")]
    assert wins["return"].sum() == wins["success"].sum() == 60 and set(wins["steps"]) == {50}


def test_a_scale_writes_its_own_results_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pirl_core.report.older.present_digest", unchanged)

    def tree(scale: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "results" / scale).iterdir()}

    fill(tmp_path / "outputs", make_params(tmp_path, lambda data: data.update(scale="libero")))
    assert report_main(run, []) == 0
    before = tree("libero")
    make_params(tmp_path, lambda data: data.update(scale="own", seeds=[0]))
    assert report_main(run, []) == 0
    assert tree("libero") == before and tree("own").keys() == before.keys() and len(before) == 7
    capsys.readouterr()
    # What is printed is the scale of params.yaml, or the one that is asked for.
    shown = []
    for words in ([], ["--scale", "libero"]):
        assert show(words) == 0
        shown.append(capsys.readouterr().out)
    assert "†" in shown[0] and "†" not in shown[1]
    assert show(["--scale", "none"]) == 2
    assert "results/none/metrics.json" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["../x", "a/b", "", "A b"])
def test_a_scale_is_the_name_of_a_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_params(tmp_path)
    content = yaml.safe_load(Path("params.yaml").read_text()) | {"scale": name}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    assert report_main(run, []) == 2
    said = capsys.readouterr().err
    assert said.startswith(f'pirl: report: params.yaml: scale = "{name}": ') and said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_an_environment_stands_once_and_records_name_it(tmp_path: Path) -> None:
    params = make_params(tmp_path)
    fill(tmp_path / "outputs", params)
    outputs, newer = tmp_path / "outputs", {"numpy": "2.0.0", "torch": "2.1"}
    edit_record(outputs, "rl", "tiny-flow_sde-0", versions=newer, edits="d1ff")
    edit_record(outputs, "rl", "tiny-flow_sde-1", versions=None, python=None, revision="abc1234-dirty")
    build(tmp_path, params)
    runs = json.loads((tmp_path / "results/run.json").read_text())
    assert len(runs["environments"]) == 2
    records = {(record["stage"], record["name"]): record for record in runs["records"]}
    assert all("versions" not in record and "python" not in record for record in records.values())
    own, absent = (records["rl", f"tiny-flow_sde-{seed}"] for seed in (0, 1))
    assert runs["environments"][own["environment"]] == {"python": "3.11.7", "versions": newer}
    assert "environment" not in absent and len({r["environment"] for r in records.values() if r is not absent}) == 2
    # Edited sources are told as such, also by records of before that was a key of its own.
    assert runs["revisions"] == ["abc1234", "abc1234 with edits"]
    page = (tmp_path / "outputs/report/report.html").read_text()
    assert page.count("<td>abc1234 with edits</td>") == 2 and "numpy 2.0.0" in page and "numpy 1.26.4" in page
    assert "| abc1234 with edits, abc1234 |" in (tmp_path / "results/report.md").read_text()


def dvc(folder: Path, *words: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *words, "--json"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_dvc_shows_success_and_what_changed(tmp_path: Path, root: Path) -> None:
    """By the list of metrics in dvc.yaml, in a folder with git and without."""
    metrics = yaml.safe_load((root / "dvc.yaml").read_text())["metrics"]
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"metrics": metrics}))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    params = make_params(tmp_path, lambda data: data.update(scale="own"))
    fill(tmp_path / "outputs", params)
    rows = build(tmp_path, params)
    path = tmp_path / "results/own/success.json"
    path.parent.mkdir()
    (tmp_path / "results/success.json").rename(path)
    shown = dvc(tmp_path, "metrics", "show")
    found = shown[""]["data"]["results/own/success.json"]["data"]
    assert found == json.loads(path.read_text()) == build_success(rows)
    sde = found["tiny"]["flow_sde"]["id"]
    assert (sde["success"], sde["n"]) == (0.75, 80) and sde["low"] < 0.75 < sde["high"]
    assert sde["rl_minus_sft"]["points"] == 50 and "rl_minus_sft" not in found["tiny"]["sft"]["id"]

    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n")
    (tmp_path / ".gitignore").write_text("/outputs/\n")
    own = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    for command in (["init", "-q"], ["add", "-A"], [*own, "commit", "-q", "-m", "start"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    found["tiny"]["flow_sde"]["id"]["success"] = 0.8
    path.write_text(to_json(found))
    moved = dvc(tmp_path, "metrics", "diff")["results/own/success.json"]
    assert moved["tiny.flow_sde.id.success"]["old"] == 0.75
    assert moved["tiny.flow_sde.id.success"]["new"] == 0.8
