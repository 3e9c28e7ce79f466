"""The paper's figures, and what stands beside them: rates, sequences of subtasks, the note that says what they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pirl_core.errors import UserError
from pirl_core.evaluation.stats import Grid, mean_interval
from pirl_core.facts import facts_of
from pirl_core.report.markdown import paper_note
from pirl_core.report.papers.beside import AVERAGE, _tables, paper_rate, published
from pirl_core.report.tables import results_table
from tests.report.made_up import build, change, fill, make_params, text_of


@pytest.mark.parametrize("benchmark", ["metaworld", "libero", "simpler"])
def test_paper_figures_average_the_groups_of_the_benchmark(benchmark: str) -> None:
    figures = published(benchmark)
    assert figures is not None
    rounding = 0.08 if benchmark == "libero" else 0.051  # Table 3 has 57.6 where its suites give 57.675
    averages = {row: rate for row, rate in figures.rates.items() if row.group == AVERAGE}
    for row, average in averages.items():
        groups = [rate for other, rate in figures.rates.items() if other[:3] == row[:3] and other != row]
        assert len(groups) == 4 and average == pytest.approx(sum(groups) / 4, abs=rounding)
    assert {row.group for row in figures.rates} - {AVERAGE} <= set(facts_of(benchmark).groups)


def test_paper_figures_stand_beside_their_row_alone() -> None:
    assert paper_rate("metaworld", "pi05", "flow_sde", "id") == 0.707
    assert paper_rate("libero", "groot", "flow_sde", "id", "libero_10") == 0.866
    assert paper_rate("simpler", "pi0", "flow_noise", "id", "carrot") == 0.957
    for model, method in (("pi0", "grpo"), ("groot", "sft"), (None, "sft")):
        assert paper_rate("metaworld", model, method, "id") is None
    for benchmark, group in (("libero", "libero_90"), ("put_on_plate", "single"), ("calvin", "articulated")):
        assert paper_rate(benchmark, "pi0", "sft", "id", group) is None


def test_paper_figures_of_put_on_plate_name_shifts() -> None:
    figures = published("put_on_plate")
    assert figures is not None and len(figures.rates) == 13 * 6 * 2
    shifts = {row.split.removeprefix("ood:") for row in figures.rates}
    assert shifts - {"id"} <= set(facts_of("put_on_plate").shifts)
    assert paper_rate("put_on_plate", "pi05", "flow_noise", "ood:position_change_to") == 0.547
    assert paper_rate("put_on_plate", "pi0", "sft", "id", "all") == 0.384
    for model, split in ((None, "id"), ("groot", "id"), ("pi0", "ood:ee_pose")):
        assert paper_rate("put_on_plate", model, "sft", split) is None


def test_paper_averages_of_sequences_are_the_sums_of_their_rates() -> None:
    figures = published("calvin")
    assert figures is not None and len(figures.chains) == 6
    for chain in figures.chains.values():
        assert chain.average == pytest.approx(sum(chain.reached) / 100, abs=1e-9)
    assert paper_rate("calvin", "pi05", "flow_sde", "id") == paper_rate("calvin", "pi05", "flow_sde", "id", "sequence")
    assert paper_rate("calvin", "pi05", "flow_sde", "id", "lift") is None


def test_sequences_are_counted_by_the_subtasks_they_reached(tmp_path: Path) -> None:
    def sequences(data: dict[str, Any]) -> None:
        world = {"benchmark": "calvin", "tasks": ["D/sequence"], "cameras": ["static"], "shift": "none"}
        data["experiments"] = {"calvin": {**data["experiments"]["tiny"], "env": world}}
        data["policies"], data["seeds"] = ["sft"], [0]
        data["evaluate"]["splits"] = {
            "id": {"tasks": ["D/sequence", "D/open_drawer"], "shift": "none", "episodes_per_task": 8}
        }

    params = make_params(tmp_path, sequences)
    fill(tmp_path / "outputs", params, {("id", "sft"): {"D/sequence": 1, "D/open_drawer": 8}}, n=8)
    solved = [5, 3, 3, 2, 1, 1, 0, 0]
    change(
        tmp_path / "outputs/evaluate/calvin-sft-0/episodes.parquet",
        lambda frame: frame.assign(reward=[*map(float, solved), *[1.0] * 8]),
    )
    metrics = build(tmp_path, params)
    [row] = metrics["chains"]
    assert row["reached"] == [6 / 8, 4 / 8, 3 / 8, 1 / 8, 1 / 8]  # single tasks do not count
    assert (row["n"], row["average"], row["paper"]) == (8, sum(solved) / 8, 3.766)
    assert metrics["rows"][0]["paper"] == 0.575
    _, low, high = mean_interval(Grid(np.array([solved], float), np.ones((1, 8), bool), np.zeros(8, int)), 5)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((low, high), abs=1e-6)
    limits = f"{low:.3f} to {high:.3f} †"
    # A subtask had the preset's 100 steps, and the env's shift plays the list that the split plays.
    rest = "100, the protocol 360"
    line = f"| calvin | ID | SFT | 8 | 75.0 | 50.0 | 37.5 | 12.5 | 12.5 | 1.875 | {limits} | 3.766 | {rest} |"
    written = (tmp_path / "results/report.md").read_text()
    assert line in written
    [shared] = metrics["shared_starts"]
    assert "of 16 episodes start as demonstrations, training and validation may" in shared["note"]
    assert f"calvin, ID: {shared['note']}." in written
    seen = text_of((tmp_path / "outputs/report/report.html").read_text())
    for text in (seen, results_table(metrics)):
        words = " ".join(text.lower().split())
        assert "len-5 % average 95 % interval paper steps a subtask" in words
        assert f"75.0 50.0 37.5 12.5 12.5 1.875 {limits} 3.766 {rest}" in words
        assert shared["note"] in words


def test_a_benchmark_with_figures_has_a_note_that_names_their_table() -> None:
    def note(benchmark: str, scale: str = "laptop", model: str | None = "pi0") -> str:
        return paper_note([{"benchmark": benchmark, "paper_model": model}], scale)

    assert "Table 6" in note("metaworld")
    assert "Table 7" in note("put_on_plate")
    assert "Table 5" in note("calvin")
    assert "Table 3" in note("libero")
    assert "Table 8" in note("simpler")
    assert note("maniskill") == note("metaworld", model=None) == ""
    assert "not a target" in note("metaworld") and "not a target" not in note("metaworld", "paper")


def test_a_benchmark_of_ones_own_has_its_figures_in_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    papers = tmp_path / "figures_lab/reach/papers"
    papers.mkdir(parents=True)
    for name in ("__init__", "reach/__init__", "reach/facts"):
        (tmp_path / f"figures_lab/{name}.py").touch()
    table = (
        "{kind: table, paper: P, name: Table %d, title: t, source: s, ran_on: r, columns: [{label: a}], "
        "beside: {benchmark: figures_lab.reach, note: 'Theirs, {}.'}, "
        "rows: [{label: x, model: dot, ask: {method: sft, experiments: [reach]}, paper: [%s]}]}"
    )
    (papers / "one.yaml").write_text(table % (1, 37.5))
    monkeypatch.syspath_prepend(str(tmp_path))
    assert paper_rate("figures_lab.reach", "dot", "sft", "id") == 0.375
    assert paper_note([{"benchmark": "figures_lab.reach", "paper_model": "dot"}], "paper") == "Theirs, dot."
    (papers / "two.yaml").write_text(table % (2, 40.0))
    published.cache_clear()
    _tables.cache_clear()
    with pytest.raises(UserError, match=r"Table 2 of P: dot sft id average = 40\.0: another table has 37\.5"):
        paper_rate("figures_lab.reach", "dot", "sft", "id")
    published.cache_clear()
    _tables.cache_clear()
