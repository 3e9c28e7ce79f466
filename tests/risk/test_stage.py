"""Stage risk and the report of a scale that has nothing else, from its command lines."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from pirl_core.commands.cli import main as pirl
from pirl_core.params.file import load_params
from pirl_core.params.preset import preset_values
from pirl_core.report.contrasts import paired_t
from pirl_core.report.metrics import build_success
from pirl_core.report.older import older_rows
from pirl_core.report.show import main as show
from pirl_core.risk.beta import optimum
from pirl_core.risk.learn import learn
from pirl_core.risk.model import metric, pomdp_of
from pirl_core.stages import report, risk
from pirl_core.stages.cli import report_main, stage_main

FILES = {"report.md", "metrics.json", "run.json", "learning.svg", "episodes.parquet", "curves.parquet", "success.json"}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scale with forty episodes, two seeds, two worlds, two ways to explore, and two γ."""
    content = preset_values("risk") | {"seeds": [0, 1]}
    section = content["risk"]
    section.update(
        episodes=40,
        log_every=10,
        gammas=[1, -3],
        experiments={name: section["experiments"][name] for name in ("pomdp", "fork")},
        methods={name: section["methods"][name] for name in ("scaled", "greedy")},
    )
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_one(experiment: str, method: str, seed: int) -> Path:
    """Its curve."""
    words = ["--experiment", experiment, "--method", method, "--seed", str(seed)]
    assert stage_main("risk", risk.run, words) == 0
    return Path(f"outputs/risk/{experiment}-{method}-{seed}/metrics.jsonl")


def run_all() -> None:
    params = load_params("params.yaml")
    for experiment, method, seed in product(params.risk.experiments, params.risk.methods, params.seeds):
        run_one(experiment, method, seed)


def results() -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads(Path("results/risk/metrics.json").read_text())
    return metrics


def test_equal_seeds_are_equal_bytes(here: Path) -> None:
    texts = [run_one("pomdp", "scaled", seed).read_bytes() for seed in (1, 1, 0)]
    assert texts[0] == texts[1] != texts[2]
    record = json.loads((here / "outputs/run/risk/pomdp-scaled-1.json").read_text())
    assert list(record["params"]["risk"]["experiments"]) == ["pomdp"] and record["seeds"] == {"training": 1}
    assert record["code"]["digest"] and "numpy" in record["versions"] and "torch" not in record["versions"]


def test_the_curve_is_what_learners_do(here: Path) -> None:
    lines = [json.loads(line) for line in run_one("fork", "greedy", 1).read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 10, 20, 30, 40]
    section = load_params("params.yaml").risk
    pomdp = pomdp_of(section.experiments["fork"])
    for gamma in (1.0, -3.0):
        best = optimum(pomdp, gamma).value
        values = list(learn(pomdp, gamma, section.methods["greedy"], 40, 0.2, 1))
        assert lines[0][metric("optimum", gamma)] == best
        assert lines[-1][metric("regret", gamma)] == pytest.approx(sum(best - value for value in values))
        assert lines[2][metric("value", gamma)] == values[19]


def test_the_report_says_what_the_curves_say(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all()
    assert report_main(report.run, []) == 0
    folder = here / "results/risk"
    assert {path.name for path in folder.iterdir()} == FILES
    rows = results()["regret"]
    assert [(row["experiment"], row["method"], row["gamma"]) for row in rows] == [
        (experiment, method, gamma)
        for experiment in ("pomdp", "fork")
        for method in ("scaled", "greedy")
        for gamma in (1, -3)
    ]
    curves = pd.read_parquet(folder / "curves.parquet")
    for row in rows:
        own = curves[(curves["experiment"] == row["experiment"]) & (curves["method"] == row["method"])]
        regret = own[own["metric"] == metric("regret", row["gamma"])].pivot(
            columns="step", values="value", index="seed"
        )
        assert [point["episode"] for point in row["regret"]] == [10, 20, 40]
        for point in row["regret"]:
            values = regret[point["episode"]].to_numpy()
            found = paired_t(values)
            assert point["mean"] == pytest.approx(values.mean(), abs=1e-6)
            if np.isfinite(found.low):
                assert point["ci_low"] == pytest.approx(max(0, found.low), abs=1e-6)
                assert point["ci_high"] == pytest.approx(found.high, abs=1e-6)
        steps = np.array(regret.columns)
        if row["exponent"] is not None:
            slope = np.polyfit(np.log(steps), np.log(regret.mean().to_numpy()), 1)[0]
            assert row["exponent"] == pytest.approx(slope, abs=1e-5)
    told = {row["gamma"]: (row["optimum"], row["paper"]) for row in rows if row["experiment"] == "pomdp"}
    assert told == {1: (pytest.approx(3.9051, abs=1e-4), 3.9040), -3: (pytest.approx(3.1736, abs=1e-4), 3.4283)}
    assert json.loads((folder / "success.json").read_text()) == build_success(results())
    assert pd.read_parquet(folder / "episodes.parquet").empty
    page = Path("outputs/report/report.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "") and "γ = −3" in page
    records = json.loads((folder / "run.json").read_text())["records"]
    assert older_rows(rows, records, lambda *_: records[0]["code"]["digest"]) == {}
    assert set(older_rows(rows, records, lambda *_: "fe")) == {(row["experiment"], row["method"]) for row in rows}
    text = (folder / "report.md").read_text()
    assert "| pomdp | scaled | −3 | 3.1736 |" in text and "![Regret over episodes" in text
    assert "greedy ‡" not in text
    capsys.readouterr()
    assert show([]) == 0 and pirl(["runs"]) == 0 and pirl(["status", "--all"]) == 0
    said = capsys.readouterr().out
    assert "γ = −3" in said and "risk@fork-greedy-1" in said and "params.yaml" in said
    assert pirl(["plan"]) == 2
    assert capsys.readouterr().err.startswith("pirl: plan: params.yaml: experiments: {}, so no policy")


def test_what_the_report_lacks_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(message: str) -> None:
        capsys.readouterr()
        assert report_main(report.run, []) == 2
        said = capsys.readouterr().err
        assert said.startswith("pirl: report: ") and message in said and said.count("\n") == 1
        assert not Path("results").exists()

    params = Path("params.yaml")
    content = yaml.safe_load(params.read_text())
    content["risk"]["experiments"].pop("fork")
    content["risk"]["methods"].pop("scaled")
    content["seeds"] = [1]
    params.write_text(yaml.safe_dump(content))
    refused("metrics.jsonl does not exist; run make stage STAGE=risk@pomdp-greedy-1 first")
    run_all()
    for key, value, message in (
        ("gammas", [1, -2], "metrics.jsonl has no optimum/gamma_-2: "),
        ("episodes", 50, "metrics.jsonl is of other episodes than params.yaml asks for: "),
        ("delta", 0.1, "ran with risk.delta = 0.2, params.yaml says 0.1; "),
    ):
        params.write_text(yaml.safe_dump(content | {"risk": content["risk"] | {key: value}}))
        refused(message)
