"""The report on made-up evaluations with known counts: every number, every refusal, no trace of what was removed."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pirl_core.errors import UserError
from pirl_core.evaluation.stats import Grid, difference_interval, mean_interval
from pirl_core.params.sections import Params
from pirl_core.report.build import build_report
from pirl_core.report.figures import learning_picture
from pirl_core.report.inputs import Clip, unlike
from pirl_core.report.show import show
from pirl_core.report.tables import METHODS, SINGLE_SEED, percent, points, results_table, seconds
from pirl_core.report.videos import choose
from pirl_core.stages.cli import report_main
from pirl_core.stages.report import run
from tests.report.made_up import (
    COUNTS,
    EASY,
    N,
    build,
    change,
    edit_record,
    fill,
    make_params,
    text_of,
    unchanged,
)


@pytest.fixture
def params(tmp_path: Path) -> Params:
    return make_params(tmp_path)


def played(split: str, method: str) -> Grid:
    """What `fill` writes: both seeds have the same outcomes on 20 states of each task."""
    value = np.concatenate([np.arange(N) < wins for wins in COUNTS[split, method].values()])
    return Grid(np.tile(value.astype(float), (2, 1)), np.ones((2, 2 * N), bool), np.repeat([0, 1], N))


def test_every_number_of_every_row(tmp_path: Path, params: Params) -> None:
    fill(tmp_path / "outputs", params)
    metrics = build(tmp_path, params)
    order = [("tiny", "id"), ("tiny", "ood:visual"), ("state", "id"), ("state", "ood:visual")]
    keys = [(row["experiment"], row["split"], row["method"]) for row in metrics["rows"]]
    assert keys == [(*where, method) for where in order for method in params.policies]
    for row in metrics["rows"]:
        wins = 2 * sum(COUNTS[row["split"], row["method"]].values())
        assert (row["n"], row["successes"], row["rate"]) == (80, wins, round(wins / 80, 6))
        wanted = mean_interval(played(row["split"], row["method"]))
        assert (row["ci_low"], row["ci_high"], row["single_seed"]) == pytest.approx((*wanted[1:], False), abs=1e-6)
        assert (row["benchmark"], row["seeds"]) == ("metaworld", [0, 1])
        beside = row["experiment"] == "tiny" and row["split"] == "id"
        paper = {"sft": 0.508, "flow_sde": 0.781, "flow_noise": 0.858}[row["method"]]
        assert row["paper"] == (paper if beside else None)
    # The paper averages difficulty groups: here one easy and one medium task.
    assert metrics["rows"][1]["group_mean"] == 0.75
    assert [row["group"] for row in metrics["groups"][:2]] == ["easy", "medium"]
    assert [row["paper"] for row in metrics["groups"][:2]] == [0.779, 0.518]


def test_differences_pair_episodes_and_tasks_keep_their_counts(tmp_path: Path, params: Params) -> None:
    fill(tmp_path / "outputs", params)
    metrics = build(tmp_path, params)
    for row in metrics["differences"]:
        rl, sft = (sum(COUNTS[row["split"], m].values()) for m in (row["method"], "sft"))
        assert (row["n"], row["diff"]) == (80, round((rl - sft) / 40, 6))
        after, before = (played(row["split"], method) for method in (row["method"], "sft"))
        wanted = difference_interval(after._replace(value=after.value - before.value))
        assert (row["ci_low"], row["ci_high"], row["single_seed"]) == pytest.approx((*wanted[1:], False), abs=1e-6)
    # Flow-Noise wins and loses exactly where SFT does under the visual shift: every pair is a tie, of 40 states.
    tie = next(r for r in metrics["differences"] if r["method"] == "flow_noise" and r["split"] == "ood:visual")
    assert (tie["diff"], tie["ci_low"], tie["ci_high"]) == pytest.approx((0, -0.0881, 0.0881), abs=5e-5)
    for row in metrics["tasks"]:
        assert (row["successes"], row["n"]) == (2 * COUNTS[row["split"], row["method"]][row["task"]], 40)
    assert len(metrics["tasks"]) == 2 * 2 * 3 * 2


def test_page_twin_and_terminal_say_the_same_numbers(tmp_path: Path, params: Params) -> None:
    fill(tmp_path / "outputs", params)
    metrics = build(tmp_path, params)
    page = (tmp_path / "outputs/report/report.html").read_text()
    seen, twin, terminal = text_of(page), (tmp_path / "results/report.md").read_text(), results_table(metrics)
    for row in metrics["rows"]:
        for key in ("rate", "ci_low", "ci_high"):
            assert all(f"{100 * row[key]:.1f}" in text for text in (seen, twin, terminal))
        assert all(METHODS[row["method"]] in text for text in (seen, twin, terminal))
    for row in metrics["differences"]:
        assert all(points(row[key]) in text for key in ("diff", "ci_low", "ci_high") for text in (seen, twin, terminal))
    for task, wins in COUNTS["id", "flow_sde"].items():
        assert f"| {task} |" in twin
        assert f"({2 * wins}/40)" in twin
        assert f"{2 * wins}/40" in seen
    assert "tiny <π0>" in seen
    assert "<π0>" not in page
    assert "78.1" in seen
    assert "78.1" in twin
    # 2 curate, 4 sft, 8 rl and 12 evaluate records of 30, 10, 100 and 5 s.
    assert "26 stage runs took 16 min 00 s in all; the largest used 3.0 GiB" in twin
    assert "left no record" not in twin
    runs = json.loads((tmp_path / "results/run.json").read_text())
    assert (runs["total_wall_seconds"], runs["peak_memory_mib"], runs["revisions"]) == (960, 3072, ["abc1234"])
    assert "Some CPU, 2 cores, 8 GiB" in seen
    assert "image_size: 64" in seen
    assert "numpy 1.26.4" in seen
    shown = show(tmp_path / "results", tmp_path / "outputs/report/report.html")
    assert terminal in shown
    assert "report.html" in shown
    assert "16 min 00 s" in shown


def test_warnings_of_training_are_told_alike_ones_together(tmp_path: Path, params: Params) -> None:
    fill(tmp_path / "outputs", params)
    build(tmp_path, params)
    page, twin = (tmp_path / path for path in ("outputs/report/report.html", "results/report.md"))
    assert all("No training run raised a warning." in text for text in (text_of(page.read_text()), twin.read_text()))
    told = [(3, "approx_kl 1.3 exceeds 1"), (5, "2 updates skipped"), (9, "approx_kl 2.5e+01 exceeds 1")]
    lines = [json.dumps({"step": step, "text": text}) + "\n" for step, text in told]
    (tmp_path / "outputs/rl/tiny-flow_sde-1/warnings.jsonl").write_text("".join(lines))
    (tmp_path / "outputs/sft/state-0/warnings.jsonl").write_text(lines[1])
    (tmp_path / "outputs/sft/tiny-0/warnings.jsonl").write_text("")
    (tmp_path / "outputs/rl/removed-flow_sde-1").mkdir()
    (tmp_path / "outputs/rl/removed-flow_sde-1/warnings.jsonl").write_text(lines[0])
    build(tmp_path, params)
    table = twin.read_text().split("## Warnings")[1].split("##")[0].strip().splitlines()
    assert table[2:] == [
        "| sft | state-0 | 1 | 5 | 2 updates skipped |",
        "| rl | tiny-flow_sde-1 | 2 | 3 to 9 | approx_kl 2.5e+01 exceeds 1 |",
        "| rl | tiny-flow_sde-1 | 1 | 5 | 2 updates skipped |",
    ]
    seen = text_of(page.read_text())
    assert "rl tiny-flow_sde-1 2 3 to 9 approx_kl 2.5e+01 exceeds 1" in seen
    assert "approx_kl 1.3" not in seen
    assert "No training run" not in seen


def test_page_is_one_file_and_well_formed(tmp_path: Path, params: Params) -> None:
    fill(tmp_path / "outputs", params)
    build(tmp_path, params)
    page = (tmp_path / "outputs/report/report.html").read_text()
    assert "http" not in page
    assert "//" not in re.sub(r"data:[^\"]*", "", page)
    assert not re.search(r"<(script|link|iframe)\b", page)
    assert page.count("data:image/gif;base64,") == 12  # 2 experiments x 3 policies x 2 seeds
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', page)) <= set(ids)
    assert all('alt="' in tag for tag in re.findall(r"<img[^>]*>", page))
    assert all("aria-label" in tag for tag in re.findall(r'<[a-z]+ [^>]*role="img"[^>]*>', page))
    assert "#0a0b" not in page
    assert "#0a0b" not in (tmp_path / "results/learning.svg").read_text()


def test_same_inputs_same_bytes(tmp_path: Path, params: Params) -> None:
    for name in ("a", "b"):
        fill(tmp_path / name / "outputs", params)
        build(tmp_path / name, params)
    written = {path.name for path in (tmp_path / "a/results").iterdir()}
    assert written == {
        "report.md", "metrics.json", "run.json", "learning.svg", "episodes.parquet", "curves.parquet", "success.json",
    }  # fmt: skip
    for file in (*(f"results/{name}" for name in written), "outputs/report/report.html"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_removed_entries_leave_no_trace_and_move_no_other_number(tmp_path: Path, params: Params) -> None:
    fill(tmp_path / "outputs", params)
    before = build(tmp_path, params)

    def shrink(data: dict[str, Any]) -> None:
        del data["experiments"]["state"]
        data["policies"] = ["sft", "flow_sde"]

    after = build(tmp_path, make_params(tmp_path, shrink))
    assert after == {
        name: [row for row in rows if row["experiment"] == "tiny" and row["method"] != "flow_noise"]
        for name, rows in before.items()
    }
    everything = "".join(path.read_text() for path in (tmp_path / "results").iterdir() if path.suffix != ".parquet")
    everything += pd.read_parquet(tmp_path / "results/episodes.parquet").to_csv()
    everything += text_of((tmp_path / "outputs/report/report.html").read_text())
    assert not re.search(r"flow_noise|Flow-Noise|\bstate-", everything)


def test_one_task_one_episode_no_success(tmp_path: Path) -> None:
    def shrink(data: dict[str, Any]) -> None:
        data.update(seeds=[0], policies=["sft", "flow_sde"])
        del data["experiments"]["state"], data["evaluate"]["splits"]["ood_visual"]

    params = make_params(tmp_path, shrink)
    fill(tmp_path / "outputs", params, {("id", "sft"): {EASY: 0}, ("id", "flow_sde"): {EASY: 1}}, n=1)
    metrics = build(tmp_path, params)
    sft, rl = metrics["rows"]
    assert (sft["rate"], sft["ci_low"], rl["rate"], rl["ci_high"]) == (0, 0, 1, 1)
    assert sft["ci_high"] == 0.975
    assert metrics["differences"][0]["diff"] == 1
    assert sft["group_mean"] == 0
    assert "mean of groups" not in results_table(metrics)


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_intervals_of_one_training_seed_are_marked(tmp_path: Path, seeds: list[int]) -> None:
    params = make_params(tmp_path, lambda data: data.update(seeds=seeds))
    fill(tmp_path / "outputs", params)
    metrics = build(tmp_path, params)
    single = len(seeds) == 1
    assert all(row["single_seed"] == single for kind in metrics.values() for row in kind)
    limits = [
        f"{show(row['ci_low'])} to {show(row['ci_high'])}"
        for kind, show in (("rows", percent), ("differences", points)) for row in metrics[kind]
    ]  # fmt: skip
    page, twin = (tmp_path / path for path in ("outputs/report/report.html", "results/report.md"))
    for text in (text_of(page.read_text()), twin.read_text(), results_table(metrics)):
        assert all((f"{limit} †" in text) == single for limit in limits)
        assert (SINGLE_SEED in text) == single


def test_without_sft_curves_records_and_videos(tmp_path: Path) -> None:
    params = make_params(tmp_path, lambda data: data.update(policies=["flow_sde"]))
    fill(tmp_path / "full", params)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "full/evaluate").rename(tmp_path / "outputs/evaluate")
    for path in (tmp_path / "outputs/evaluate").glob("*/videos/videos.json"):
        path.unlink()
    assert build(tmp_path, params)["differences"] == []
    seen = text_of((tmp_path / "outputs/report/report.html").read_text())
    assert "No training curve was recorded" in seen
    assert pd.read_parquet(tmp_path / "results/curves.parquet").empty
    assert "No video was kept" in seen
    assert "RL − SFT" not in seen


def test_sft_alone_has_a_report(tmp_path: Path) -> None:
    params = make_params(tmp_path, lambda data: data.update(policies=["sft"], methods={}))
    fill(tmp_path / "outputs", params)
    metrics = build(tmp_path, params)
    assert {row["method"] for row in metrics["rows"]} == {"sft"} and metrics["differences"] == []
    assert "SFT: flow-matching loss" in text_of((tmp_path / "outputs/report/report.html").read_text())


def listed_as(path: Path, file: str) -> None:
    listing = path.parent / "videos/videos.json"
    listing.write_text(listing.read_text().replace("a.gif", file))


BREAKS: dict[str, Callable[[Path], object]] = {
    "does not exist": lambda p: p.unlink(),
    "damaged parquet": lambda p: p.write_bytes(b"PAR1 nonsense"),
    "column 'success' is missing": lambda p: change(p, lambda f: f.drop(columns="success")),
    "column 'success' must hold true or false": lambda p: change(p, lambda f: f.assign(success=1.0)),
    "column 'seed' must be 0": lambda p: change(p, lambda f: f.assign(seed=5)),
    "column 'method' must be 'flow_sde'": lambda p: change(p, lambda f: f.assign(method="sft")),
    "holds the splits ['id']": lambda p: change(p, lambda f: f[f["split"] == "id"]),
    "an episode twice": lambda p: change(p, lambda f: pd.concat([f, f[:1]])),
    "saw different episodes": lambda p: change(p, lambda f: f.assign(env_seed=f["env_seed"] + 1)),
    "unknown MetaWorld task 'juggle-v3'": lambda p: change(
        p, lambda f: f.assign(task=f["task"].replace(EASY, "juggle-v3"))
    ),
    "metrics.jsonl:2: no valid JSON": lambda p: (p.parents[2] / "rl/tiny-flow_sde-0/metrics.jsonl").write_text(
        '{"step": 1}\n{"st'
    ),
    "warnings.jsonl entry 1: text = {'step': 1}: field required": lambda p: (
        p.parents[2] / "rl/tiny-flow_sde-0/warnings.jsonl"
    ).write_text('{"step": 1}\n'),
    "tiny-flow_sde-0.json: no valid JSON": lambda p: (p.parents[2] / "run/rl/tiny-flow_sde-0.json").write_text("{"),
    "though videos.json lists it": lambda p: (p.parent / "videos/a.gif").unlink(),
    "'/etc/hostname' is no plain name": lambda p: listed_as(p, "/etc/hostname"),
    "'..' is no plain name": lambda p: listed_as(p, ".."),
    "'../episodes.parquet' is no plain name": lambda p: listed_as(p, "../episodes.parquet"),
}


@pytest.mark.parametrize("message", BREAKS)
def test_broken_input_is_one_line_and_writes_nothing(tmp_path: Path, params: Params, message: str) -> None:
    fill(tmp_path / "outputs", params)
    BREAKS[message](tmp_path / "outputs/evaluate/tiny-flow_sde-0/episodes.parquet")
    with pytest.raises(UserError, match=re.escape(message)) as error:
        build_report(params, tmp_path / "outputs", tmp_path / "results", unchanged)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "outputs/report").exists()


def test_a_run_with_other_parameters_is_no_row(tmp_path: Path, params: Params) -> None:
    """Though DVC may hold it for this one: it reads params.yaml some moments after the stage last did."""
    fill(tmp_path / "outputs", params)
    edit_record(tmp_path / "outputs", "rl", "tiny-flow_sde-0", params={"rl": {"actor_lr": 0.5}})
    with pytest.raises(UserError, match=r"ran with rl\.actor_lr = 0\.5, params\.yaml says .*rl@tiny-flow_sde-0`$"):
        build_report(params, tmp_path / "outputs", tmp_path / "results", unchanged)
    assert not (tmp_path / "results").exists()
    # The commit of a branch is no other value; another branch would be.
    for revision, said in (("a" * 40, ""), ("other", "ran with policy.revision = other, params.yaml says None")):
        assert unlike(params, "sft", "tiny-0", {"policy": {"revision": revision}}) == said


def test_stage_tells_where_the_report_is_or_one_line(
    tmp_path: Path, params: Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pirl_core.report.older.present_digest", unchanged)
    assert report_main(run, []) == 2
    message = capsys.readouterr().err
    assert message.startswith("pirl: report: outputs/evaluate/tiny-sft-0/episodes.parquet does not exist")
    assert message.count("\n") == 1
    fill(tmp_path / "outputs", params)
    assert report_main(run, []) == 0
    # make reproduce prints the table, once, at its end.
    assert capsys.readouterr().out.startswith("[report all] results/laptop/report.md, outputs/report/report.html")


def test_clips_alternate_outcomes_and_spread_over_tasks() -> None:
    clips = [Clip(Path(f"{t}{s}{i}"), "id", t, s, i) for t in "ab" for s in (True, False) for i in range(2)]
    clips.append(Clip(Path("o"), "ood:visual", "c", True, 0))
    chosen = choose(clips, most=4)
    assert [clip.success for clip in chosen] == [True, False, True, False]
    assert [clip.task for clip in chosen] == ["a", "b", "a", "b"]
    assert choose(clips, most=9)[-1].split == "ood:visual"
    assert choose(clips[-1:]) == clips[-1:]
    assert choose([]) == []


def test_long_curves_are_thinned_in_the_picture() -> None:
    curve = {"charts/success": [(float(i), 0.5) for i in range(5000)]}
    assert len(learning_picture(["flow_sde"], {"e": {"flow_sde": [curve, curve]}})) < 40_000


def test_show_refuses_kindly_and_stays_light(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make reproduce"):
        show(tmp_path, tmp_path)
    code = "import sys, pirl_core.report.show; print({'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_durations_read_naturally() -> None:
    assert [seconds(x) for x in (None, 1.25, 59.6, 200, 7500)] == [
        "–",
        "1.2 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
