"""Questions to the results of a twin: figures of the right episodes, pooled as said, or why there is none."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pirl_core.errors import UserError
from pirl_core.report.evidence import Answer, Evidence, Query, ask, curve, parts_of, read_evidence
from pirl_core.report.twins import is_part
from tests.report.planted import TASKS, N, Rate, Row, plant, plant_curves

RATES = {
    ("one", "sft", "id"): 0.3,
    ("one", "flow_sde", "id"): 0.7,
    ("one", "flow_sde", "ood:visual"): 0.5,
    ("two", "sft", "id"): 0.6,
    ("two", "flow_sde", "id"): 0.9,
}


def constant(rates: dict[Row, float]) -> dict[Row, Rate]:
    def at(rate: float) -> Callable[[int], float]:
        return lambda _: rate

    return {row: at(rate) for row, rate in rates.items()}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two parts of paper_small, which share experiment one, and one of paper."""
    ones = {row: rate for row, rate in RATES.items() if row[0] == "one"}
    plant(tmp_path / "paper_small_a", constant(ones), 3)
    plant(tmp_path / "paper_small_b", constant(RATES), 3)
    plant(tmp_path / "paper", constant({("one", "sft", "id"): 1.0}), 1)
    plant_curves(tmp_path / "paper_small_a", {("rl", "one", "flow_sde", "losses/approx_kl"): [[0.1, 0.2], [0.3]]})
    return tmp_path


def answer_of(results: Path | Evidence, *query: object) -> Answer:
    evidence = read_evidence(results, "paper_small") if isinstance(results, Path) else results
    found = ask(evidence, Query(*query))  # type: ignore[arg-type]
    assert isinstance(found, Answer), found
    return found


def mean_of(results: Path, part: str, row: Row) -> float:
    frame = pd.read_parquet(results / part / "episodes.parquet")
    keys = frame[["experiment", "method", "split"]].apply(tuple, axis=1)
    return float(frame.loc[keys == row, "success"].mean())


def test_each_name_is_of_one_twin() -> None:
    assert is_part("paper", "paper") and is_part("paper_libero", "paper")
    assert not is_part("paper_small_x", "paper") and not is_part("papers", "paper")
    assert is_part("paper_small_x", "paper_small") and not is_part("paper_smaller", "paper_small")
    assert "paper" in parts_of("paper")


def test_a_run_in_two_parts_counts_once(results: Path) -> None:
    found = answer_of(results, ("one",), "sft")
    assert (found.n, found.seeds) == (3 * len(TASKS) * N, 3)
    assert found.mean == pytest.approx(mean_of(results, "paper_small_a", ("one", "sft", "id")))
    evidence = read_evidence(results, "paper_small")
    assert curve(evidence, "one", "flow_sde", "losses/approx_kl") == {0: [(0, 0.1), (1, 0.2)], 1: [(0, 0.3)]}
    assert curve(evidence, "two", "flow_sde", "losses/approx_kl") == {}


def test_equal_units_are_one_grid_and_others_the_mean_of_their_answers(results: Path) -> None:
    """Of equal units the pooled interval is narrower than the mean of theirs; the mean is unweighted in any case."""
    one, two = (answer_of(results, (name,), "flow_sde") for name in ("one", "two"))
    both = answer_of(results, ("one", "two"), "flow_sde")
    assert both.mean == pytest.approx((one.mean + two.mean) / 2) and both.n == one.n + two.n
    assert both.high - both.low < ((one.high - one.low) + (two.high - two.low)) / 2
    path = results / "paper_small_b/episodes.parquet"
    frame = pd.read_parquet(path)
    frame[(frame["experiment"] == "one") | (frame["seed"] < 2)].to_parquet(path)
    two = answer_of(results, ("two",), "flow_sde")
    uneven = answer_of(results, ("one", "two"), "flow_sde")
    assert uneven[:3] == pytest.approx(np.mean([one[:3], two[:3]], 0)) and uneven.seeds == 2


def test_groups_of_tasks(results: Path) -> None:
    easy, medium, each = (answer_of(results, ("one",), "sft", ("id",), group) for group in ("easy", "medium", "each"))
    assert easy.n == medium.n == 3 * N and each.mean == pytest.approx((easy.mean + medium.mean) / 2)


def test_a_gain_is_paired_and_needs_its_sft(results: Path) -> None:
    gain = answer_of(results, ("one",), "flow_sde", ("id",), None, "gain")
    rates = [answer_of(results, ("one",), method).mean for method in ("flow_sde", "sft")]
    assert gain.mean == pytest.approx(rates[0] - rates[1]) and gain.low < gain.mean < gain.high
    evidence = read_evidence(results, "paper_small")
    assert "one sft was not evaluated on ood:visual" in str(
        ask(evidence, Query(("one",), "flow_sde", ("ood:visual",), None, "gain"))
    )


def test_lengths_have_an_interval(results: Path) -> None:
    path = results / "paper_small_a/episodes.parquet"
    frame = pd.read_parquet(path)
    frame["steps"] = np.where(frame["success"], 10, 50)
    frame.to_parquet(path)
    steps = answer_of(results, ("one",), "sft", ("id",), None, "steps")
    success = answer_of(results, ("one",), "sft")
    assert steps.mean == pytest.approx(50 - 40 * success.mean) and steps.low < steps.mean < steps.high


@pytest.mark.parametrize("scale", ["laptop", "calvin"])
def test_it_answers_as_metrics_json_has_it(scale: str, committed: Path, tmp_path: Path) -> None:
    """Of committed results: every rate, group, paired difference and length of sequences."""
    (tmp_path / "paper_small_x").symlink_to(committed / scale)
    metrics = json.loads((committed / scale / "metrics.json").read_text())
    asked = [(row, row["split"], None, "success", row["rate"]) for row in metrics["rows"]]
    asked += [(row, "id", row["group"], "success", row["rate"]) for row in metrics["groups"]]
    asked += [(row, row["split"], None, "gain", row["diff"]) for row in metrics["differences"]]
    evidence = read_evidence(tmp_path, "paper_small")
    for row in metrics.get("chains", []):
        reached = [answer_of(evidence, (row["experiment"],), row["method"], (row["split"],), None, f"reached_{k}").mean
                   for k in range(1, 6)]  # fmt: skip
        assert reached == pytest.approx(row["reached"], abs=1e-6)
        asked.append((row, row["split"], None, "average", row["average"]))
    for row, split, group, of, mean in asked:
        found = answer_of(evidence, (row["experiment"],), row["method"], (split,), group, of)
        assert found[:4] == pytest.approx((mean, row["ci_low"], row["ci_high"], row["n"]), abs=1e-6), row
    assert len(asked) > 12


def test_what_is_missing_is_named(results: Path) -> None:
    evidence = read_evidence(results, "paper_small")
    assert ask(evidence, Query(("one", "three"), "sft")) == "no run of three sft: no preset of paper_small has it"
    assert ask(evidence, Query(("one",), "sft", of="average")) == "episodes of one are no sequences of subtasks"
    assert "group hard" in str(ask(evidence, Query(("one",), "sft", group="hard")))
    absent = ask(read_evidence(results / "nothing", "paper"), Query(("metaworld",), "flow_sde"))
    assert absent == "no run of metaworld flow_sde: make reproduce SCALE=paper"


def test_two_parts_may_not_train_one_run_differently(results: Path) -> None:
    path = results / "paper_small_b/run.json"
    runs = json.loads(path.read_text())
    runs["records"][0]["params"]["env"]["benchmark"] = "libero"
    path.write_text(json.dumps(runs))
    with pytest.raises(UserError, match=r"paper_small_b: curate one ran with env.benchmark = libero, in paper_small_a"):
        read_evidence(results, "paper_small")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.json", '{"records": 3}'),
        ("run.json", '{"records": [{"stage": "rl"}]}'),
        ("run.json", '{"records": [{"stage": "rl", "name": "one", "params": {"env": {"benchmark": 3}}}]}'),
        ("curves.parquet", "no table"),
    ],
)
def test_damaged_files_are_told_in_one_line(name: str, text: str, results: Path) -> None:
    (results / "paper_small_a" / name).write_text(text)
    with pytest.raises(UserError, match=rf"paper_small_a/{name}: [^\n]+reproduce its scale$"):
        read_evidence(results, "paper_small")


def test_an_episode_or_a_benchmark_that_cannot_be(results: Path) -> None:
    path = results / "paper_small_a/run.json"
    path.write_text(path.read_text().replace('"metaworld"', '"nowhere"'))
    (results / "paper_small_b/run.json").unlink()
    with pytest.raises(UserError, match="one: its benchmark nowhere"):
        ask(read_evidence(results, "paper_small"), Query(("one",), "sft"))
    frame = pd.read_parquet(results / "paper_small_a/episodes.parquet")
    pd.concat([frame, frame[:1]]).to_parquet(results / "paper_small_a/episodes.parquet")
    with pytest.raises(UserError, match="holds an episode twice"):
        read_evidence(results, "paper_small")
