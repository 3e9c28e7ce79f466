"""`pirl status` beside real processes: running, finished, failed, killed."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pirl_core.commands.cli import main
from pirl_core.commands.status import ORDER, RUNS, WIDTH, read_statuses, render, text_of
from pirl_core.errors import UserError
from pirl_core.stages.lock import LOCKS, exclusive
from pirl_core.training.track import STATUS
from tests.stages.test_end_to_end import command, variables, workspace

Status = dict[str, Any]
NOW = 1_000_000.0
WORK = """
import sys, time
from pathlib import Path
from pirl_core.training.track import Tracker
with Tracker("rl", "metaworld-flow_sde-0", 20, None) as tracker:
    tracker.log(0, {"validation/success": 0.5}, ())
    tracker.log(1, {"charts/success": 0.61, "losses/approx_kl": 0.081, "losses/clipfrac": 0.12}, ())
    tracker.checkpointed(1)
    tracker.warn(1, "approx_kl 1.3 exceeds 1")
    print("ready", flush=True)
    time.sleep(100)
"""


@contextmanager
def working(root: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process whose run is under way."""
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        [sys.executable, "-c", WORK], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any("ready" in line for line in process.stdout)
            yield process
        finally:
            process.kill()


def status(**values: Any) -> Status:
    """A status file's content: this process, running."""
    me = psutil.Process()
    return {
        "stage": "rl", "name": "m-0", "host": socket.gethostname(), "pid": me.pid, "pid_created": me.create_time(),
        "started": NOW - 1000, "updated": NOW - 10, "step": 5, "total": 22, "eta_seconds": 70.0, "metrics": {},
        "checkpoint_at": None, "checkpoint_step": None, "warnings": [], "state": "running", "message": "",
    } | values  # fmt: skip


def store(folder: Path, *statuses: Status) -> None:
    (folder / STATUS).mkdir(parents=True, exist_ok=True)
    for one in statuses:
        (folder / STATUS / f"{one['stage']}-{one['name']}.json").write_text(json.dumps(one))


def store_text(folder: Path, content: str) -> None:
    (folder / STATUS).mkdir(parents=True, exist_ok=True)
    (folder / STATUS / "rl-m-0.json").write_text(content, errors="surrogateescape")


@pytest.fixture
def pirl(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*options: str) -> str:
        assert main(["status", "--root", str(tmp_path), *options]) == 0
        return capsys.readouterr().out

    return call


def test_a_process_is_seen_to_run_and_to_have_been_killed(root: Path, tmp_path: Path, pirl: Callable[..., str]) -> None:
    with working(root, tmp_path) as process:
        header, _, line, warning = pirl().splitlines()
        assert header.split() == ["run", "state", "step", "success", "KL", "clip", "ETA", "saved", "updated"]
        # Validation's success, the deterministic policy's, comes before training's.
        assert line.split()[:6] == ["rl@metaworld-flow_sde-0", "running", "1/20", "0.50", "0.081", "0.12"]
        assert warning.strip() == "warning: approx_kl 1.3 exceeds 1"
        process.kill()
        # A zombie, which nobody has waited for yet, runs no more either.
        deadline = time.monotonic() + 5
        while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
        assert " killed " in pirl()
    (told,) = json.loads(pirl("--json"))
    assert (told["state"], told["eta_seconds"], told["checkpoint_step"]) == ("killed", None, 1)
    assert told["metrics"]["losses/approx_kl"] == 0.081
    assert 0 <= told["checkpoint_age"] < 60


def test_a_stage_is_seen_from_its_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pirl: Callable[..., str]
) -> None:
    """Once it has taken its lock, which is seconds before it writes a status; an earlier run's is of no account."""
    store(tmp_path, status(stage="sft", state="done"))
    monkeypatch.chdir(tmp_path)
    with exclusive("sft", "m-0"), exclusive("report", "all"):
        rows = {line.split()[0]: line.split()[1] for line in pirl().splitlines() if "@" in line}
        assert rows == {"sft@m-0": "starting", "report@all": "running"}
        store(tmp_path, status(stage="sft", started=time.time(), updated=time.time()))
        assert [line.split()[1:3] for line in pirl().splitlines() if "sft@" in line] == [["running", "5/22"]]
    # Whoever had it last is gone, or its number is another's.
    for lock, pid in (("rl-m-0", 2**22 + 1), ("rl-m-1", 1)):
        (tmp_path / LOCKS / lock).write_text(f"{pid} (python, since then)")
    os.utime(tmp_path / LOCKS / "rl-m-1", (1, 1))
    (tmp_path / LOCKS / "rl-m-2").touch()
    assert "rl@" not in pirl("--all")


def test_stages_of_a_flow_apart_are_shown_with_their_folder(tmp_path: Path, pirl: Callable[..., str]) -> None:
    store(tmp_path, status(stage="curate"))
    store(tmp_path / RUNS / "0a1b2c", status(updated=NOW), status(stage="sft", state="done"))
    (tmp_path / RUNS / "params.check.yaml").touch()
    lines = pirl().splitlines()
    assert [line.split()[0] for line in lines[2:5]] == ["rl@m-0", "in", "curate@m-0"]
    assert lines[3].strip() == "in .pirl/runs/0a1b2c"
    assert [one["folder"] for one in json.loads(pirl("--json"))] == [".pirl/runs/0a1b2c", ""]


def test_only_the_same_process_keeps_a_run_alive(tmp_path: Path) -> None:
    me = status()
    store(
        tmp_path,
        me,
        status(name="reused-0", pid_created=me["pid_created"] - 100),
        status(name="gone-0", pid=2**22 + 1),
        status(name="elsewhere-0", host="another-machine", pid=2**22 + 1),
    )
    states = {one["name"]: one["state"] for one in read_statuses(tmp_path, NOW)}
    assert states == {"m-0": "running", "elsewhere-0": "running", "reused-0": "killed", "gone-0": "killed"}


def test_finished_runs_are_shown_on_demand(tmp_path: Path, pirl: Callable[..., str]) -> None:
    assert pirl() == "Nothing is running.\n"
    assert pirl("--json") == "[]\n"
    store(
        tmp_path,
        status(stage="curate", state="done", updated=NOW),
        status(stage="sft", state="stopped"),
        status(state="failed", message="approx_kl 30 exceeds 20 (run.stop_kl)"),
        status(stage="evaluate"),
    )
    shown = pirl().splitlines()
    assert [line.split()[0] for line in shown[2:]] == ["evaluate@m-0", "rl@m-0", "approx_kl", "2"]
    assert "pirl status --all" in shown[-1]
    states = [line.split()[1] for line in pirl("--all").splitlines()[2:] if "@" in line]
    assert states == ["running", "failed", "stopped", "done"]


def test_the_widest_table_fits_the_terminal_and_says_all(tmp_path: Path) -> None:
    metrics = dict.fromkeys(("charts/success", "losses/policy_loss", "losses/approx_kl", "losses/clipfrac"), -0.000123)
    store(
        tmp_path,
        status(
            name="metaworld_ml45-flow_sde_with_a_long_name-12", step=12345, total=99999, metrics=metrics,
            eta_seconds=359999.0, checkpoint_at=NOW - 3540, updated=NOW - 59, warnings=["first", "x" * 200],
        ),
        status(stage="sft", metrics={"losses/flow_matching": None}, eta_seconds=70.0),
    )  # fmt: skip
    lines = render(read_statuses(tmp_path, NOW)).splitlines()
    assert max(map(len, lines)) == WIDTH
    assert lines[0].split() == ["run", "state", "step", "success", "loss", "KL", "clip", "ETA", "saved", "updated"]
    assert any("sft@m-0" in line and " nan " in line and "1:00" in line for line in lines)  # 70 s, told 10 s ago
    (long,) = (line for line in lines if line.startswith("rl@"))
    assert "99:59:00" in long
    assert "59 min" in long
    assert long.split()[0].endswith("-12")
    assert any(line.startswith("    2 warnings, newest: xxx") for line in lines)


def status_of(content: Status) -> bool:
    """Whether each value is of the kind that a table can show, worked out anew."""
    number, count = (lambda x: is_number(x) and abs(x) <= 1e15), (lambda x: type(x) is int and 0 <= x < 2**31)
    kinds: dict[str, Callable[[Any], bool]] = dict.fromkeys(("started", "updated", "pid_created"), number)
    kinds |= dict.fromkeys(("eta_seconds", "checkpoint_at"), lambda x: x is None or number(x))
    kinds |= dict.fromkeys(("pid", "step", "total"), count)
    kinds |= dict.fromkeys(("stage", "name", "host", "message"), lambda x: isinstance(x, str))
    kinds["checkpoint_step"] = lambda x: x is None or count(x)
    kinds["warnings"] = lambda x: isinstance(x, list) and all(isinstance(one, str) for one in x)
    kinds["metrics"] = lambda x: isinstance(x, dict) and all(one is None or number(one) for one in x.values())
    kinds["state"] = lambda x: x in ("running", "failed", "stopped", "done")
    return all(key in content and kinds[key](content[key]) for key in kinds)


def is_number(x: Any) -> bool:
    return type(x) in (int, float) and math.isfinite(x)


def odd_values() -> st.SearchStrategy[Any]:
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    return st.recursive(leaf, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner))


@example(key="name", value="\x85", state="running")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(status())), value=st.just("left out") | odd_values(), state=st.sampled_from(ORDER))
def test_a_status_is_shown_or_refused_in_a_line(tmp_path: Path, key: str, value: Any, state: str) -> None:
    """Whatever value stands at one of its keys, or none."""
    content = status(state="failed" if state == "killed" else state, metrics={"charts/success": 0.5})
    content[key] = value
    if value == "left out":
        del content[key]
    store_text(tmp_path, json.dumps(content))
    fits = status_of(content)
    with nullcontext() if fits else pytest.raises(UserError, match=r"rl-m-0.json: not a status file of this version"):
        assert "@" in text_of(tmp_path, True, False)
    assert value != "left out" or not fits


STRANGE = {
    "cut": "{", "a list": "[]", "empty": "", "no keys": "{}", "deep": "[" * 100_000, "infinite": "1e999",
    "no such state": json.dumps(status(state="dancing")), "not UTF-8": "\udcff", "surrogate": '"\\ud800"',
}  # fmt: skip


@pytest.mark.parametrize("content", [*STRANGE, "a folder", "a pipe"])
def test_a_strange_file_is_one_line(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / STATUS / "rl-m-0.json"
    store_text(tmp_path, STRANGE.get(content, ""))
    if content not in STRANGE:
        path.unlink()
        os.mkfifo(path) if content == "a pipe" else path.mkdir()
    assert main(["status", "--root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert "rl-m-0.json: no" in said.err and "; delete it" in said.err


def test_watching_goes_on_until_interrupted(root: Path, tmp_path: Path) -> None:
    store(tmp_path, status())
    with subprocess.Popen(
        [sys.executable, "-m", "pirl_core", "status", "--watch", "0.1", "--root", str(tmp_path)],
        cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        for _ in range(3):
            while "rl@m-0" not in process.stdout.readline():
                assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_real_training_is_watched_and_killed(tmp_path: Path, pirl: Callable[..., str]) -> None:
    workspace(tmp_path)
    for stage in (["curate"], ["sft", "0"]):
        subprocess.run(command(*stage), cwd=tmp_path, env=variables(2), check=True, capture_output=True)
    assert pirl() == "Nothing is running.\n2 more have finished or been stopped: pirl status --all\n"
    assert [line.split()[1] for line in pirl("--all").splitlines()[2:]] == ["done", "done"]
    params = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(params.replace("iterations: 2\n", "iterations: 10000\n"))
    with subprocess.Popen(
        command("rl", "0", "flow_sde"), cwd=tmp_path, env=variables(2), stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any(" 2/10000 " in line for line in process.stdout)
            time.sleep(1)
            told = next(one for one in json.loads(pirl("--json")) if one["stage"] == "rl")
            assert (told["state"], told["total"], told["pid"]) == ("running", 10000, process.pid)
            assert told["step"] >= 1
            assert {"charts/success", "losses/approx_kl", "losses/clipfrac"} <= set(told["metrics"])
            assert told["eta_seconds"] > 0
        finally:
            process.kill()
    row = next(line for line in pirl().splitlines() if line.startswith("rl@metaworld-flow_sde-0"))
    assert row.split()[1] == "killed"
    shutil.rmtree(tmp_path / ".pirl/status")
    assert pirl() == "Nothing is running.\n"
