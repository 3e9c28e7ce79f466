"""Several processes train as one does; whatever ends one of them ends all, with one line, and leaves none behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests import ROOT
from tests.stages.test_end_to_end import command, variables, workspace
from tests.training.rank_jobs import OTHERS, RL, SFT, WARM

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


CASES = {"one": (1, "ddp"), "ddp": (2, "ddp"), "fsdp": (2, "fsdp")}
KINDS = {"fast": [kind for kind in (*SFT, *RL) if not kind.endswith(OTHERS)]}
KINDS["slow"] = [kind for kind in (*SFT, *RL) if kind not in KINDS["fast"]]


def train(folder: Path, kinds: list[str], ranks: int, sharding: str, stop: int | None = None) -> None:
    start = [sys.executable] if ranks == 1 else [sys.executable, *TORCHRUN, str(ranks)]
    done = subprocess.run(
        [*start, "-m", "tests.training.rank_jobs", str(folder), *kinds],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PIRL_SHARDING": sharding, **({"STOP": str(stop)} if stop else {})},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trainings(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the trainings of one speed: all kinds, each in one rank, in two with DDP, in two with FSDP."""

    @cache
    def folder(speed: str) -> Path:
        top = tmp_path_factory.mktemp(speed)
        for name, (ranks, sharding) in CASES.items():
            train(top / name, [*KINDS[speed], *(WARM if speed == "fast" else ())], ranks, sharding)
        return top

    return folder


def moves(folder: Path) -> dict[str, torch.Tensor]:
    """How far each parameter moved."""
    before, after = load_file(folder / "start.safetensors"), load_file(folder / "trained.safetensors")
    return {name: after[name] - before[name] for name in before}


PARAMETERS = [
    pytest.param(speed, kind, marks=pytest.mark.slow if speed == "slow" else ())
    for speed in KINDS
    for kind in KINDS[speed]
]


@pytest.mark.parametrize(("speed", "kind"), PARAMETERS)
def test_two_ranks_move_the_parameters_as_one_does(speed: str, kind: str, trainings: Callable[[str], Path]) -> None:
    """With the same global batches, by DDP and by FSDP. The ranks add the same numbers in another order, and nothing
    else differs."""
    folders = {name: trainings(speed) / name / kind for name in CASES}
    one = moves(folders["one"])
    moved = [name for name, step in one.items() if step.abs().max() > 1e-3]
    assert len(moved) > 10
    for case in ("ddp", "fsdp"):
        two = moves(folders[case])
        for name in moved:
            # Adam makes steps of gradients that are nothing but rounding, so the norm is compared, not each number.
            assert (one[name] - two[name]).norm() < 1e-2 * one[name].norm(), (case, name)
        for rows in zip(*(curve(folders[name]) for name in ("one", case)), strict=True):
            assert rows[0].keys() == rows[1].keys()
            for key in rows[0]:
                assert rows[0][key] == pytest.approx(rows[1][key], rel=1e-2, abs=2e-4), (case, key)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", WARM)
def test_warm_up_leaves_the_actor_as_it_was(kind: str, case: str, trainings: Callable[[str], Path]) -> None:
    """Though DDP and FSDP hand it gradients of 0, and the critic's loss reaches the adapters."""
    folder = trainings("fast") / case / kind
    assert not any(step.any() for step in moves(folder).values())
    assert curve(folder)[-1]["charts/updates"] > 1


def curve(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log/metrics.jsonl").read_text().splitlines()]


def ranks_of(launcher: int) -> list[psutil.Process]:
    """The launcher's rank processes, once there are two that compute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = psutil.Process(launcher).children()
        if len(children) >= 2:
            return children
        time.sleep(0.1)
    raise AssertionError("the ranks did not start")


def gone(processes: list[psutil.Process], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while left := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


@pytest.fixture(scope="module")
def sft_done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which curate and sft have run, sft in two ranks."""
    folder = workspace(tmp_path_factory.mktemp("ranks"))
    for stage in (["curate"], ["sft", "0"]):
        done = subprocess.run(
            command(*stage), cwd=folder, env={**variables(1), "PIRL_PROCESSES": "2"}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    return folder


def start_rl(folder: Path, **changes: Any) -> "subprocess.Popen[str]":
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["rl"].update({"iterations": 10_000, **changes})
    params["run"]["checkpoint_minutes"] = 0
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return subprocess.Popen(
        command("rl", "0", "flow_sde"), cwd=folder, env={**variables(2), "PIRL_PROCESSES": "2"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


@pytest.mark.slow
def test_a_stage_in_two_ranks_and_its_record(sft_done: Path) -> None:
    assert (sft_done / "outputs/policy/metaworld-sft-0/model.safetensors").is_file()
    record = yaml.safe_load((sft_done / "outputs/run/sft/metaworld-0.json").read_text())
    assert record["machine"]["processes"] == 2
    assert not (sft_done / ".pirl/resume/sft").exists() or not list((sft_done / ".pirl/resume/sft").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("victim", "sent", "code", "line"),
    [
        ("rank", signal.SIGKILL, 1, "rank 1 was killed by SIGKILL"),
        ("launcher", signal.SIGTERM, 143, "stopped"),
        ("launcher", signal.SIGINT, 130, "stopped"),
        ("launcher", signal.SIGKILL, -9, ""),
        ("worker", signal.SIGKILL, 1, "environment worker"),
    ],
)
def test_one_ends_all(victim: str, sent: signal.Signals, code: int, line: str, sft_done: Path, tmp_path: Path) -> None:
    shutil.copytree(sft_done, tmp_path, dirs_exist_ok=True)
    with start_rl(tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        for _ in range(3):
            assert "/10000" in process.stdout.readline()
        everyone = psutil.Process(process.pid).children(recursive=True)
        ranks = ranks_of(process.pid)
        by_number = {p.environ()["RANK"]: p for p in ranks}
        chosen = {"rank": by_number["1"], "launcher": psutil.Process(process.pid)}
        chosen["worker"] = by_number["1"].children()[0]
        chosen[victim].send_signal(sent)
        gone(everyone, 20)
        assert process.wait(20) == code
        said = process.stderr.read()
    assert line in said
    assert len(said.strip().splitlines()) == (1 if line else 0), said
    saved = sorted(path.name for path in (tmp_path / ".pirl/resume/rl/metaworld-flow_sde-0").glob("*/*"))
    # a kill may fall between the writing of a checkpoint and the removal of the oldest
    assert len([name for name in saved if name.isdecimal()]) in (2, 3), saved


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_all_ranks_with_one_line(sft_done: Path, tmp_path: Path) -> None:
    shutil.copytree(sft_done, tmp_path, dirs_exist_ok=True)
    with start_rl(tmp_path, actor_lr=1e9, critic_lr=1e9, max_grad_norm=1e9) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert len(said.strip().splitlines()) == 1, said
    assert "run.max_skipped_updates" in said or "run.stop_kl" in said, said
