"""`pirl runs` over folders made by hand: what differs, how far each is, every number; and how compare names them."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from scipy.stats import binomtest

from pirl_core.commands.cli import main
from pirl_core.commands.runs import differing
from pirl_core.commands.status import RUNS, WIDTH
from pirl_core.commands.targets import stage_names
from pirl_core.params.file import load_params, resolve
from pirl_core.params.preset import preset_values
from pirl_core.report.folder import results_of
from pirl_core.stages.job import READS
from pirl_core.stages.lock import PIPELINE

NEWER, OLDER = "3f2a9c1b2d", "3fb0000000"
N = 20


def evaluation(folder: Path, method: str, successes: int, seed: int = 0, splits: tuple[str, ...] = ("id",)) -> Path:
    """A table of N episodes of each split, of which so many succeed."""
    rows = [
        ("metaworld", method, seed, split, "reach-v3", 1000 + i, i < successes, 50, 0.0)
        for split in splits
        for i in range(N)
    ]
    columns = ["experiment", "method", "seed", "split", "task", "env_seed", "success", "steps", "reward"]
    path = folder / f"outputs/evaluate/metaworld-{method}-{seed}/episodes.parquet"
    path.parent.mkdir(parents=True)
    pd.DataFrame(rows, columns=columns).to_parquet(path)
    return path


def parameters(folder: Path, **changes: Any) -> None:
    """params.yaml of the smallest scale with these sections' keys changed, or these lists replaced."""
    content = preset_values("smoke")
    content.update(methods={"flow_sde": content["methods"]["flow_sde"]}, policies=["sft", "flow_sde"])
    for key, value in changes.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def record(folder: Path, *addresses: str) -> None:
    """As these stages write it at their end, with the folder's own parameters."""
    params = load_params(folder / "params.yaml")
    for address in addresses:
        kind, _, name = address.partition("@")
        experiment, *more = name.split("-")
        run = resolve(params, experiment, more[0] if kind == "rl" else None)
        read = {section: getattr(run, section).model_dump() for section in READS[kind]}
        path = folder / f"outputs/run/{kind}/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"params": read}))


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The repository's own run, and two apart: one with a value more than that, and two training seeds."""
    monkeypatch.chdir(tmp_path)
    parameters(tmp_path)
    evaluation(tmp_path, "sft", 8, splits=("id", "ood:visual"))
    evaluation(tmp_path, "flow_sde", 12)
    evaluation(tmp_path, "gone", 1)
    older, newer = tmp_path / RUNS / OLDER, tmp_path / RUNS / NEWER
    parameters(older, rl={"actor_lr": 1e-5}, seeds=[0, 1], report={"title": "Another"})
    evaluation(older, "flow_sde", 10)
    evaluation(older, "flow_sde", 20, seed=1)
    parameters(newer, rl={"actor_lr": 1e-5})
    evaluation(newer, "flow_sde", 17, splits=("ood:visual", "id"))
    for folder, since in ((older, 3600), (newer, 60)):
        lock = folder / PIPELINE
        lock.parent.mkdir(parents=True)
        lock.touch()
        os.utime(lock, (lock.stat().st_mtime - since,) * 2)
    return tmp_path


@pytest.fixture
def pirl(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    def call(*words: str) -> Any:
        assert main([*words, "--json"]) == 0, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    return call


def test_what_differs_and_every_number(pirl: Callable[..., Any]) -> None:
    own, newer, older = pirl("runs")
    assert [run["run"] for run in (own, newer, older)] == ["params.yaml", NEWER, OLDER]
    assert [round(run["used"], -1) for run in (newer, older)] == [60, 3600]
    assert (own["differs"], newer["differs"]) == ({}, {"rl.actor_lr": 1e-5})
    assert older["differs"] == {"rl.actor_lr": 1e-5, "seeds": [0, 1], "report.title": "Another"}
    # What params.yaml does not list is not shown; what is not there yet has no episodes.
    told = {(run["run"], row["method"]): row for run in (own, newer, older) for row in run["evaluations"]}
    assert len(told) == 6
    for run, method, successes in (("params.yaml", "sft", 8), ("params.yaml", "flow_sde", 12), (NEWER, "flow_sde", 17)):
        row = told[run, method]
        assert (row["successes"], row["n"], row["single_seed"], row["seeds"]) == (successes, N, True, [0])
        low, high = binomtest(successes, N).proportion_ci(method="exact")
        assert (row["rate"], row["low"], row["high"]) == pytest.approx((successes / N, low, high))
    assert (told[NEWER, "sft"]["n"], told[NEWER, "sft"]["rate"]) == (0, None)
    # And as `pirl compare` has them, of two training seeds too.
    for a, b in (("params.yaml", NEWER), (NEWER, OLDER)):
        names = [f"{'' if run == 'params.yaml' else f'{run}:'}metaworld-flow_sde" for run in (a, b)]
        split = next(row for row in pirl("compare", names[0].replace("sde", "sde-0"), names[1])["rows"])
        for run, side in ((a, "a"), (b, "b")):
            row = told[run, "flow_sde"]
            assert split["split"] == "id"
            assert split[side] == {key: row[key] for key in split[side]}
    assert told[OLDER, "flow_sde"]["n"] == 2 * N and not told[OLDER, "flow_sde"]["single_seed"]


def test_a_stage_is_done_with_these_parameters_only(root: Path, pirl: Callable[..., Any]) -> None:
    stages = [name for name in stage_names(load_params(root / "params.yaml")) if name != "report"]
    folder = root / RUNS / NEWER

    def done(number: int) -> tuple[int, int]:
        return pirl("runs")[number]["done"], pirl("runs")[number]["total"]

    assert done(1) == (0, 6)
    record(folder, *stages)
    assert done(1) == (5, 6)
    results = results_of(root=folder)
    results.mkdir(parents=True)
    (results / "metrics.json").touch()
    assert done(1) == (6, 6)
    (folder / "outputs/run/sft/metaworld-0.json").write_text("{")
    assert done(1) == (1, 6)
    # Results of the file as it was before an edit are not those of the file.
    record(root, *stages)
    assert done(0) == (5, 6)
    parameters(root, rl={"actor_lr": 0.5})
    assert done(0) == (3, 6)


def test_the_table(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation(root / RUNS / NEWER, "sft", 3).write_text("no")
    own_keys = {"noise_level": 0.7, "clip_ratio": 0.3, "gamma": 0.5, "huber_delta": 7.0, "critic_lr": 0.1}
    parameters(root, rl=own_keys, report={"title": "T" * 90})
    shown = {}
    for option in ((), ("--all",)):
        assert main(["runs", *option]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[2].split()[:3] == ["params.yaml", "0", "s"] and "40.0  19.1 to 63.9 †  20" in lines[2]
        assert lines[4].startswith(NEWER) and "damaged parquet" in lines[5]
        assert "metaworld-flow_sde" in lines[6] and "85.0" in lines[6]
        assert lines[-1].startswith("† One training seed")
        end = next(number for number, line in enumerate(lines) if line.startswith(OLDER))
        shown[option] = lines[7:end]
    (line,) = shown[()]
    assert len(line) <= WIDTH and line.endswith(" more: --all")
    first = line.strip().split("  ")[0]
    keys = [line.strip().partition("=")[0] for line in shown["--all",]]
    assert shown["--all",][0].strip() == first
    assert sorted(keys) == sorted(["rl.actor_lr", "report.title", *(f"rl.{key}" for key in own_keys)])


def test_a_package_in_the_root_is_found(root: Path, pirl: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the installed command too, which does not look in the folder that it is called in."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    (root / "rule_of_mine").mkdir()
    (root / "rule_of_mine/wide.py").write_text("def weights(tau, delta, level): pass\n")
    parameters(root / RUNS / NEWER, rl={"noise_rule": "rule_of_mine.wide"})
    assert pirl("runs")[1]["problem"] == ""


def test_keys_that_only_one_side_has() -> None:
    own = {"a": {"b": 1, "c": {}}, "d": [1], "e": 2}
    other = {"a": {"c": {"x": 1}, "f": {"y": 2}}, "d": {"z": 3}, "e": 2}
    assert differing(own, other) == ({"a.c.x": 1, "a.f": {"y": 2}, "d": {"z": 3}}, ["a.b"])
    assert differing(own, own) == ({}, [])


def folder_for_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


BREAKS: dict[str, Callable[[Path], object]] = {
    "half made, it has no params.yaml": lambda folder: (folder / "params.yaml").unlink(),
    "line 1": lambda folder: (folder / "params.yaml").write_text("rl: ["),
    "is empty": lambda folder: (folder / "params.yaml").write_text(""),
    "a folder": lambda folder: folder_for_file(folder / "params.yaml"),
    "actor_lrr": lambda folder: parameters(folder, rl={"actor_lrr": 1}),
}


@pytest.mark.parametrize("said", BREAKS)
def test_a_broken_folder_is_one_line(said: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    BREAKS[said](root / RUNS / NEWER)
    (root / RUNS / "a file").touch()
    assert main(["runs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = [line for line in lines if line.startswith(NEWER)]
    assert line.startswith(f"{NEWER}: broken: ") and said in line
    assert any(line.startswith(OLDER) for line in lines)


def test_nothing_tried_and_no_repository(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / RUNS).rename(root / "elsewhere")
    assert main(["runs"]) == 0
    assert "Nothing was tried yet" in capsys.readouterr().out.splitlines()[-1]
    (root / "params.yaml").unlink()
    assert main(["runs"]) == 2
    assert capsys.readouterr().err.startswith("pirl: runs: params.yaml: no such file")


@pytest.mark.parametrize(
    "name", ["3f2:metaworld-flow_sde", "3f2a9c1b2d:metaworld-flow_sde-0", "evaluate@3f2:metaworld-flow_sde"]
)
def test_a_prefix_names_a_run(name: str, root: Path, pirl: Callable[..., Any]) -> None:
    told = pirl("compare", "metaworld-flow_sde", name)
    assert told["b"]["files"] == [str(RUNS / NEWER / "outputs/evaluate/metaworld-flow_sde-0/episodes.parquet")]
    (row,) = [row for row in told["rows"] if row["split"] == "id"]
    assert (row["a"]["successes"], row["b"]["successes"], row["pairs"]) == (12, 17, N)
    # A name that another one continues is itself.
    (root / RUNS / f"{NEWER}0").mkdir()
    assert pirl("compare", "metaworld-flow_sde", f"{NEWER}:metaworld-flow_sde")["rows"] == told["rows"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("77:metaworld-flow_sde", f"77: no run in {RUNS} begins so; there is {NEWER}, {OLDER}"),
        (":metaworld-flow_sde", f"no run in {RUNS} begins so; there is {NEWER}, {OLDER}"),
        ("3f:metaworld-flow_sde", f"3f: several runs begin so: {NEWER}, {OLDER}"),
        ("3f2:metaworld-sft", f"{NEWER}/outputs/evaluate has no such evaluation; it has metaworld-flow_sde-0"),
        ("3f2:", "it has metaworld-flow_sde-0"),
    ],
)
def test_what_names_no_run_is_one_line(name: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "metaworld-flow_sde", name]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert said in printed.err
