"""The flows with a real Prefect server: side by side, failures, and what is left when something is killed."""

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("prefect")

from flows.server import free_port
from flows.watch import SERVER_PATIENCE_SECONDS
from pirl_core.commands.status import RUNS
from pirl_core.stages.lock import PIPELINE, take
from tests import ROOT
from tests.flows.workspace import (
    PYTHON,
    ask,
    below,
    environment,
    make_workspace,
    seconds_to_end,
    stages_of,
    start_server,
    turn,
    wait_for,
    words_of,
)
from tests.stages.test_end_to_end import workspace as real_workspace

pytestmark = pytest.mark.slow
LIMIT_SECONDS = 20.0
# Slower than the log is throttled, so that every line is there.
SLOW_STAGES = {"steps": 60, "seconds": 1.1}
TWO_RUNNING = (" 2/60 ", 2)


class World:
    """A workspace and a server; commands run in it write to ``log``."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.folder = folder
        self.api_url = api_url
        self.log = folder / "command.log"

    def start(self, *arguments: str, api: bool = True) -> "subprocess.Popen[bytes]":
        """``python -m ARGUMENTS`` in a session of its own, as from a terminal of its own."""
        return self.launch([PYTHON, "-m", *arguments], api)

    def launch(self, command: list[str], api: bool = True) -> "subprocess.Popen[bytes]":
        more = {"PREFECT_API_URL": self.api_url} if api else {}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**environment(self.folder, **more), "PWD": str(self.folder)},
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A test run in the background has SIGINT ignored, and its children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )

    def finish(self, *arguments: str) -> tuple[int, str]:
        """Run to the end; exit code and what was printed."""
        code = self.start(*arguments).wait(240)
        return code, self.log.read_text()

    def flow_run(self, deployment: str, **parameters: Any) -> str:
        found = ask(self.api_url, f"/deployments/name/pirl/{deployment}")
        created = ask(self.api_url, f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(created["id"])

    def state(self, flow_run: str) -> str:
        return str(ask(self.api_url, f"/flow_runs/{flow_run}")["state"]["name"])

    def wait_for_state(self, flow_run: str, *names: str, patience: float = 120) -> str:
        deadline = time.monotonic() + patience
        while (state := self.state(flow_run)) not in names:
            assert time.monotonic() < deadline, (state, self.log.read_text()[-4000:])
            time.sleep(0.2)
        return state

    def last_flow_run(self) -> str:
        return str(ask(self.api_url, "/flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]["id"])

    def task_runs(self, flow_run: str, count: int) -> dict[str, Any]:
        """By stage. They reach the database a little after the fact."""
        deadline = time.monotonic() + 30
        while True:
            body = {"flow_runs": {"id": {"any_": [flow_run]}}}
            found = {run["name"]: run for run in ask(self.api_url, "/task_runs/filter", body)}
            if len(found) == count and all(run["state"]["name"] != "Running" for run in found.values()):
                return found
            assert time.monotonic() < deadline, {name: run["state"]["name"] for name, run in found.items()}
            time.sleep(0.5)

    def nothing_is_locked(self) -> None:
        """DVC's lock is free, and in the list of who reads and writes what there is nobody alive."""
        with (self.folder / ".dvc/tmp/lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        holders = self.folder / ".dvc/tmp/rwlock"
        listed = holders.read_text() if holders.exists() else ""
        assert not [pid for pid in re.findall(r'"pid": (\d+)', listed) if psutil.pid_exists(int(pid))], listed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = make_workspace(tmp_path_factory.mktemp("world"))
    server, api_url = start_server(folder, free_port())
    try:
        yield World(folder, api_url)
    finally:
        _kill(server)


@contextmanager
def running(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """Whatever a failed test leaves of it is killed."""
    try:
        yield process
    finally:
        _kill(process)


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def overlap(first: dict[str, Any], second: dict[str, Any]) -> float:
    """Seconds during which both ran."""
    begun, ended = ([datetime.fromisoformat(run[key]) for run in (first, second)] for key in ("start_time", "end_time"))
    return (min(ended) - max(begun)).total_seconds()


def test_two_at_once_one_fails_and_a_rerun_finishes(world: World) -> None:
    turn(world.folder, all={"steps": 2, "seconds": 0.5}, **{"sft b-0": {"exit": 2}})
    code, printed = world.finish("flows.run")
    assert code == 1
    last = printed.strip().splitlines()[-1]
    assert last.startswith("pirl: flow: failed: sft@b-0: told to fail. Not run to the end: ")
    skipped = {"rl@b-flow_sde-0", "evaluate@b-sft-0", "evaluate@b-flow_sde-0", "report"}
    assert set(last.rpartition(": ")[2].split(", ")) == skipped

    runs = world.task_runs(world.last_flow_run(), 11)
    states = {name: run["state"]["name"] for name, run in runs.items()}
    assert {name for name, state in states.items() if state == "NotReady"} == skipped
    assert {name for name, state in states.items() if state == "Completed"} == {
        "curate@a", "curate@b", "sft@a-0", "rl@a-flow_sde-0", "evaluate@a-sft-0", "evaluate@a-flow_sde-0",
    }  # fmt: skip
    # Bad input is not tried again.
    assert states["sft@b-0"] == "Refused"
    assert runs["sft@b-0"]["run_count"] == 1
    assert overlap(runs["curate@a"], runs["curate@b"]) > 0.5
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"PIRL_THREADS={share}\n" in printed.replace("Task run 'curate@a' - ", "\n").replace("  ", "")

    turn(world.folder)
    code, printed = world.finish("flows.run")
    assert code == 0, printed
    states = {name: run["state"]["name"] for name, run in world.task_runs(world.last_flow_run(), 11).items()}
    assert {name for name, state in states.items() if state == "Completed"} == {"sft@b-0", *skipped}
    assert {state for name, state in states.items() if name not in {"sft@b-0", *skipped}} == {"Unchanged"}
    # The server gives all versions, in no order that means anything.
    versions = sorted(ask(world.api_url, "/artifacts/filter", {}), key=lambda artifact: str(artifact["created"]))
    artifacts = {artifact["key"]: artifact for artifact in versions}
    assert set(artifacts) >= {"pirl-progress", "pirl-stages"}
    assert json.loads(artifacts["pirl-stages"]["data"])[0]["state"] == "Unchanged"
    assert artifacts["pirl-progress"]["data"] == 100


def test_other_values_run_apart_and_tell_how_to_compare(world: World) -> None:
    turn(world.folder)
    code, printed = world.finish("flows.run", "--set", "report.title=Trial")
    assert code == 0, printed
    (folder,) = (world.folder / RUNS).iterdir()
    assert f"PYTHONPATH={folder}:{world.folder}:{world.folder}" in printed
    assert "to compare with params.yaml's own run: `pirl runs`" in printed
    assert (folder / "results/smoke/report.md").exists()


def test_a_flow_waits_for_its_turn_and_mends_what_a_kill_left(world: World) -> None:
    turn(world.folder)
    assert world.finish("flows.run")[0] == 0
    # A whole record is copied when the next run begins.
    assert world.finish("flows.run")[0] == 0
    (world.folder / "dvc.lock").write_bytes(b"")
    (world.folder / ".dvc/tmp/rwlock").write_text('{"write": {"')
    earlier = take(world.folder / PIPELINE)
    with running(world.start("flows.run")) as flow:
        wait_for(world.log, f"process {os.getpid()} (")
        wait_for(world.log, ") runs here; waiting for its end")
        earlier.close()
        assert flow.wait(240) == 0, world.log.read_text()
    printed = world.log.read_text()
    assert printed.strip().splitlines()[-1] == "pirl: flow: 11 stages: 0 ran, 11 unchanged"
    assert "dvc.lock was broken and is put back" in printed and "rwlock was broken and is dropped" in printed
    world.nothing_is_locked()


def test_without_keep_going_the_others_are_stopped_and_a_failure_is_tried_again(world: World) -> None:
    """A stage that fails otherwise than by bad input is tried twice more; only then the others are stopped."""
    turn(world.folder, all={**SLOW_STAGES, "steps": 600}, **{"curate b": {"exit": 1}})
    code, printed = world.finish("flows.run", "--force", "--no-keep-going")
    assert code == 1
    assert printed.strip().splitlines()[-1].startswith("pirl: flow: failed: curate@b: told to fail (exit code 1). Not")
    runs = world.task_runs(world.last_flow_run(), 11)
    assert runs["curate@b"]["run_count"] == 3
    assert runs["curate@a"]["state"]["name"] == "Cancelled"
    assert "PIRL_FRESH=1" in printed


def test_cancelled_or_killed_under_a_served_deployment(world: World) -> None:
    with running(world.start("flows.deployment", "--cron", "0 3 * * *", "--paused")) as deployment:
        wait_for(world.log, "is being served")
        for how in ("cancelled", "killed"):
            turn(world.folder, all=SLOW_STAGES)
            flow_run = world.flow_run("local", force=True)
            wait_for(world.log, TWO_RUNNING[0], TWO_RUNNING[1] * (1 if how == "cancelled" else 2))
            stages = stages_of(below(deployment.pid))
            assert len(stages) >= 8
            if how == "cancelled":
                assert ask(world.api_url, f"/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLING"}})
            else:
                next(p for p in below(deployment.pid) if stages[0] in p.children()).kill()
            assert seconds_to_end(stages, LIMIT_SECONDS) < LIMIT_SECONDS
            assert world.wait_for_state(flow_run, "Cancelled", "Crashed") == (
                "Cancelled" if how == "cancelled" else "Crashed"
            )
            world.nothing_is_locked()
        turn(world.folder)
        assert world.wait_for_state(world.flow_run("local"), "Completed", "Failed", "Crashed") == "Completed"
        everything = below(deployment.pid)
        deployment.send_signal(signal.SIGINT)
        assert deployment.wait(20) == 0
        assert seconds_to_end(everything, LIMIT_SECONDS) < LIMIT_SECONDS


def test_a_killed_worker(world: World) -> None:
    for command in (
        ("work-pool", "create", "pirl", "--type", "process"),
        ("--no-prompt", "deploy", "--name", "pool", "--prefect-file", "flows/prefect.yaml"),
    ):
        code, printed = world.finish("prefect", *command)
        assert code == 0, printed
    turn(world.folder, all=SLOW_STAGES)
    worker = ("prefect", "worker", "start", "--pool", "pirl", "--limit", "1")
    with running(world.start(*worker)) as process:
        flow_run = world.flow_run("pool", force=True)
        wait_for(world.log, *TWO_RUNNING)
        everything = below(process.pid)
        assert len(stages_of(everything)) >= 8
        process.kill()
        assert seconds_to_end(everything, LIMIT_SECONDS) < LIMIT_SECONDS
        world.nothing_is_locked()
        # The dying flow run has told the server, so the next one need not wait for its place.
        assert world.wait_for_state(flow_run, "Crashed", patience=20)
    turn(world.folder)
    with running(world.start(*worker)):
        assert world.wait_for_state(world.flow_run("pool"), "Completed", "Failed", "Crashed") == "Completed"


def test_a_killed_server(tmp_path: Path) -> None:
    """The flow goes on for a while, in case the server comes back; then it stops, and a rerun finishes."""
    folder = make_workspace(tmp_path)
    port = free_port()
    server, api_url = start_server(folder, port)
    world = World(folder, api_url)
    turn(folder, all={**SLOW_STAGES, "steps": 600})
    with running(server), running(world.start("flows.run")) as flow:
        wait_for(world.log, " 2/600 ", 2)
        stages = stages_of(below(flow.pid))
        server.kill()
        time.sleep(10)
        assert all(stage.is_running() for stage in stages)
        seconds_to_end(stages, SERVER_PATIENCE_SECONDS + 10)
        assert flow.wait(LIMIT_SECONDS + 5) != 0
        assert "has been gone for" in world.log.read_text()
        world.nothing_is_locked()
    turn(folder)
    again, _ = start_server(folder, port)
    with running(again):
        code, printed = world.finish("flows.run")
        assert code == 0, printed


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_flow_with_a_server_of_its_own(sent: signal.Signals, world: World) -> None:
    """`make flow` and Ctrl-C: neither stages stay behind nor the server."""
    turn(world.folder, all=SLOW_STAGES)
    with running(world.start("flows.run", "--force", api=False)) as flow:
        wait_for(world.log, *TWO_RUNNING)
        everything = [psutil.Process(flow.pid), *below(flow.pid)]
        assert any("flows.gate" in words_of(process) for process in everything)
        os.killpg(flow.pid, sent)
        flow.wait(LIMIT_SECONDS)
        assert seconds_to_end(everything, LIMIT_SECONDS) < LIMIT_SECONDS
        if sent == signal.SIGINT:
            assert flow.returncode == 130
            assert world.log.read_text().splitlines()[-1].startswith("pirl: flow: stopped")
    world.nothing_is_locked()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_serve_ends_all_that_it_started(sent: signal.Signals, world: World) -> None:
    turn(world.folder, all=SLOW_STAGES)
    port = free_port()
    served = World(world.folder, f"http://127.0.0.1:{port}/api")
    with running(served.start("flows.serve", "--port", str(port), api=False)) as process:
        wait_for(served.log, "is being served")
        assert ask(served.api_url.removesuffix("/api"), "/ui-settings")["api_url"] == served.api_url
        served.flow_run("local", force=True)
        wait_for(served.log, *TWO_RUNNING)
        everything = below(process.pid)
        os.killpg(process.pid, sent) if sent == signal.SIGINT else process.kill()
        process.wait(LIMIT_SECONDS + 1)
        assert seconds_to_end(everything, LIMIT_SECONDS) < LIMIT_SECONDS
        assert sent != signal.SIGINT or process.returncode == 0
    served.nothing_is_locked()


def test_the_real_stages(world: World, tmp_path: Path) -> None:
    """The pipeline at the smallest size, its two methods side by side; then nothing is left to do."""
    folder = real_workspace(tmp_path)
    shutil.copytree(world.folder / "flows", folder / "flows")
    for name in ("dvc.yaml", ".dvcignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copy(world.folder / ".dvc" / "config", folder / ".dvc" / "config")
    before = (folder / "params.yaml").read_bytes()
    real = World(folder, world.api_url)
    code, printed = real.finish("flows.run")
    assert code == 0, printed
    runs = real.task_runs(real.last_flow_run(), 8)
    assert overlap(runs["rl@metaworld-flow_sde-0"], runs["rl@metaworld-flow_noise-0"]) > 1
    results = next(a for a in ask(world.api_url, "/artifacts/filter", {}) if a["key"] == "pirl-results")
    assert {row["method"] for row in json.loads(results["data"])} == {"SFT", "Flow-SDE", "Flow-Noise"}
    assert (folder / "params.yaml").read_bytes() == before
    code, printed = real.finish("flows.run")
    assert printed.strip().splitlines()[-1] == "pirl: flow: 8 stages: 0 ran, 8 unchanged"
