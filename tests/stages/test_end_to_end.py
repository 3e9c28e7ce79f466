"""The pipeline from nothing, by the stages' own commands: it repeats bit for bit, and it stops without a trace."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml

from pirl_core.checkpoints.pretrained import load_pretrained
from pirl_core.checkpoints.source import find_checkpoint
from pirl_core.params.preset import preset_values
from pirl_core.policy.backbone import new_backbone
from pirl_core.policy.folder import load_policy
from tests import ROOT

STAGES = [
    ["curate"],
    ["sft", "0"],
    ["rl", "0", "flow_sde"],
    ["rl", "0", "flow_noise"],
    *(["evaluate", "0", policy] for policy in ("sft", "flow_sde", "flow_noise")),
    ["report"],
]
pytestmark = pytest.mark.slow


def workspace(folder: Path, scale: str = "smoke") -> Path:
    """A copy of the package with a scale shrunk to a few episodes and steps."""
    shutil.copytree(ROOT / "pirl_core", folder / "pirl_core", ignore=shutil.ignore_patterns("__pycache__"))
    params = preset_values(scale)
    params["env"]["tasks"] = ["handle-press-v3"]
    params["sft"].update(steps=6, log_every=3)
    params["rl"].update(
        iterations=2, num_envs=4, episodes_per_iteration=4, validation_episodes_per_task=2, critic_warmup_iterations=0
    )
    params["evaluate"]["num_envs"] = 4
    for split in params["evaluate"]["splits"].values():
        split["episodes_per_task"] = 2
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def command(stage: str, seed: str = "", method: str = "", experiment: str = "metaworld") -> list[str]:
    options = {"--experiment": "" if stage == "report" else experiment, "--seed": seed, "--method": method}
    given = [text for option, value in options.items() if value for text in (option, value)]
    return [sys.executable, "-m", f"pirl_core.stages.{stage}", *given]


def variables(workers: int) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": "", "PIRL_THREADS": "1", "PIRL_WORKERS": str(workers)}


def run(folder: Path, words: list[str], workers: int) -> None:
    done = subprocess.run(words, cwd=folder, env=variables(workers), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def run_all(folder: Path, workers: int) -> None:
    for stage in STAGES:
        run(folder, command(*stage), workers)


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = workspace(tmp_path_factory.mktemp("first"))
    run_all(folder, 1)
    return folder


def test_the_same_seeds_give_the_same_bits(first: Path, tmp_path: Path) -> None:
    """In another folder, with another number of simulator processes."""
    second = workspace(tmp_path)
    run_all(second, 2)
    for pattern, count in (
        ("outputs/curate/**/*", 6),
        ("outputs/policy/*/*", 18),
        ("outputs/rl/*/last/*", 13),
        ("outputs/evaluate/*/episodes.parquet", 3),
        ("results/smoke/metrics.json", 1),
        ("results/smoke/episodes.parquet", 1),
    ):
        here = hashes(first, pattern)
        assert len(here) == count, here
        assert here == hashes(second, pattern)
    weights = hashes(first, "outputs/policy/*/model.safetensors").values()
    last = hashes(first, "outputs/rl/*/last/model.safetensors").values()
    assert len({*weights, *last}) >= 3, "RL changed nothing"


def test_everything_is_there_and_the_page_points_nowhere(first: Path) -> None:
    page = (first / "outputs/report/report.html").read_text()
    assert "http://" not in page and "https://" not in page
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert "data:image/gif;base64," in page
    names = {path.relative_to(first / "outputs/run").as_posix() for path in (first / "outputs/run").rglob("*.json")}
    assert names == {
        "curate/metaworld.json",
        "sft/metaworld-0.json",
        *(f"rl/metaworld-{method}-0.json" for method in ("flow_sde", "flow_noise")),
        *(f"evaluate/metaworld-{policy}-0.json" for policy in ("sft", "flow_sde", "flow_noise")),
    }
    assert {path.name for path in (first / "results/smoke").iterdir()} == {
        "metrics.json", "report.md", "run.json", "learning.svg", "episodes.parquet", "curves.parquet", "success.json",
    }  # fmt: skip
    assert not list(first.rglob("*.partial"))


@pytest.mark.parametrize(
    ("family", "target"), [("pi0", "openpi"), ("pi05", "openpi"), ("smolvla", "lerobot"), ("groot", "isaac")]
)
def test_every_family_goes_from_demonstrations_to_an_export(family: str, target: str, tmp_path: Path) -> None:
    """The families scale, one experiment, up to weights in a published layout that are those of the policy."""
    folder = workspace(tmp_path, "families")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["experiments"] = {family: params["experiments"][family]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    methods = [["rl", "0", "flow_sde"], ["evaluate", "0", "sft"], ["evaluate", "0", "flow_sde"]]
    for stage, *names in (["curate"], ["sft", "0"], *methods, ["report"]):
        run(folder, command(stage, *names, **({} if stage == "report" else {"experiment": family})), 1)
    (change,) = json.loads((folder / "results/families/metrics.json").read_text())["differences"]
    assert (change["experiment"], change["method"], change["n"]) == (family, "flow_sde", 2)
    source = folder / f"outputs/policy/{family}-flow_sde-0"
    run(folder, [sys.executable, "-m", "pirl_core", "export", str(source), str(folder / "out"), "--to", target], 1)
    policy = load_policy(source)
    other = new_backbone(policy.backbone.shape)
    load_pretrained(other, find_checkpoint(str(folder / "out")))
    state = other.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in policy.backbone.state_dict().items())


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_training_leaves_nothing_behind(sent: signal.Signals, code: int, first: Path, tmp_path: Path) -> None:
    """Neither half an output, nor an earlier one damaged, nor a process."""
    shutil.copytree(first, tmp_path, dirs_exist_ok=True)
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["rl"]["iterations"] = 10_000
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    before = hashes(tmp_path, "outputs/**/*") | hashes(tmp_path, "results/*/*")
    with subprocess.Popen(
        command("rl", "0", "flow_sde"), cwd=tmp_path, env=variables(2), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
        # A test run started in the background has SIGINT ignored, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(3)]
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sent)
        process.wait(60)
        messages = process.stderr.read()
    assert all("/10000" in line for line in lines), lines
    assert len(children) >= 2
    deadline = time.monotonic() + 10
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.1)
    assert process.returncode == code
    assert "Traceback" not in messages
    assert hashes(tmp_path, "outputs/**/*") | hashes(tmp_path, "results/*/*") == before
    assert not list((tmp_path / "outputs").rglob("*.partial"))
