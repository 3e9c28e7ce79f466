"""The flows without a Prefect server: graph, parameters, shares of the machine, lines, and the guard of processes."""

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml

pytest.importorskip("prefect")

from flows.artifacts import describe, slug
from flows.graph import Stage, beside, longest_first, look_at_sources, read_graph, select
from flows.lines import Progress, Transcript, clock, level, progress
from flows.processes import GUARD
from flows.resources import Machine, default_slots
from flows.run import main, parse_overrides
from flows.server import free_port
from flows.workspace import check, open_workspace
from pirl_core.commands.status import RUNS
from pirl_core.errors import UserError
from pirl_core.params.file import load_params
from tests.flows.workspace import PYTHON, below, environment, make_workspace, seconds_to_end, turn, words_of
from tests.stages.test_pipeline import begun

EVALUATIONS = ("evaluate@a-sft-0", "evaluate@a-flow_sde-0", "evaluate@b-sft-0", "evaluate@b-flow_sde-0")


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return make_workspace(tmp_path)


def graph() -> list[Stage]:
    """That of two experiments, up to date."""
    stages = []
    for e in "ab":
        chain = [f"curate@{e}", f"sft@{e}-0", f"rl@{e}-flow_sde-0", f"evaluate@{e}-flow_sde-0"]
        stages += [Stage(own, tuple(chain[i - 1 : i]) if i else (), False) for i, own in enumerate(chain)]
        stages.append(Stage(f"evaluate@{e}-sft-0", (f"sft@{e}-0",), False))
    return [*stages, Stage("report", EVALUATIONS, False)]


def test_the_graph_is_in_order_and_knows_what_is_up_to_date(workspace: Path) -> None:
    stages = read_graph(workspace)
    places = {stage.address: i for i, stage in enumerate(stages)}
    assert len(places) == 11
    assert all(places[need] < i for i, stage in enumerate(stages) for need in stage.needs)
    assert places["report"] == 10
    assert set(stages[10].needs) >= set(EVALUATIONS)
    assert all(stage.stale for stage in stages)

    dvc(workspace, "repro", "curate@a", "sft@a-0")
    fresh = {stage.address for stage in read_graph(workspace) if not stage.stale}
    assert fresh == {"curate@a", "sft@a-0"}
    # What needs something stale is stale, though nothing of its own has changed.
    (workspace / "outputs/curate/a/x").write_text("changed")
    assert all(stage.stale for stage in read_graph(workspace))

    (workspace / "dvc.yaml").write_text("stages: [")
    with pytest.raises(UserError, match=r"dvc\.yaml") as error:
        read_graph(workspace)
    assert "\n" not in str(error.value)


def dvc(folder: Path, *arguments: str, within: str = ".") -> str:
    done = subprocess.run(
        [PYTHON, "-m", "dvc", *arguments],
        cwd=folder / within,
        env=environment(folder),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_report_joins_a_selection_only_when_the_rest_is_done() -> None:
    stages = graph()
    assert select(stages, None) == stages
    assert [stage.address for stage in select(stages, ["b"])] == [
        s.address for s in stages if s.experiment in ("b", "")
    ]
    unfinished = [stage._replace(stale=stage.address in ("evaluate@a-sft-0", "report")) for stage in stages]
    assert {stage.experiment for stage in select(unfinished, ["b"])} == {"b"}


def test_beside_is_neither_before_nor_after() -> None:
    def names(address: str) -> set[str]:
        return {stage.address for stage in beside(graph(), address)}

    assert names("report") == set()
    assert names("curate@a") == {stage.address for stage in graph() if stage.experiment == "b"}
    assert names("rl@a-flow_sde-0") == {"evaluate@a-sft-0"} | names("curate@a")


def test_what_others_wait_for_starts_first() -> None:
    order = [stage.address for stage in longest_first(graph())]
    assert order[:4] == ["curate@a", "curate@b", "sft@a-0", "sft@b-0"]
    assert order.index("rl@b-flow_sde-0") < order.index("evaluate@a-sft-0")
    assert order[-1] == "report"


def test_slots_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    gib = 1 << 30
    assert default_slots(2, 24 * gib, 0, None) == {"cpu": 2, "gpu": 1}
    assert default_slots(64, 512 * gib, 8, 2) == {"cpu": 2, "gpu": 4}
    assert default_slots(1, 24 * gib, 0, None)["cpu"] == default_slots(8, 8 * gib, 0, None)["cpu"] == 1

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    stages = {stage.address: stage for stage in graph()}
    machine = Machine({"cpu": 2}, {}, [])
    both, alone = (machine.variables(stages[name], graph(), []) for name in ("rl@a-flow_sde-0", "report"))
    assert (both["PIRL_THREADS"], both["PIRL_WORKERS"], both["PYTHONUNBUFFERED"]) == ("4", "4", "1")
    assert alone["PIRL_THREADS"] == "8"
    # What the user has set stays.
    machine = Machine({}, {"PIRL_THREADS": "3", "CUDA_VISIBLE_DEVICES": "7"}, [])
    assert machine.variables(stages["sft@a-0"], graph(), [])["PIRL_THREADS"] == "3"
    # A cluster's simulators are no share of this machine.
    assert "PIRL_WORKERS" not in Machine({}, {"PIRL_CLUSTER": "ray"}, []).variables(stages["sft@a-0"], graph(), [])


def test_stages_side_by_side_get_gpus_of_their_own() -> None:
    stages = {stage.address: stage for stage in graph()}
    machine = Machine({}, {}, ["0", "1", "2", "3"])
    assert machine.resource(stages["curate@a"]) == machine.resource(stages["report"]) == "cpu"
    taken = [machine.take(stages[name], graph()) for name in ("sft@a-0", "sft@b-0")]
    assert machine.slots["gpu"] == 4
    assert sorted(taken[0] + taken[1]) == sorted(set(taken[0] + taken[1]))
    variables = machine.variables(stages["sft@a-0"], graph(), taken[0])
    assert variables["CUDA_VISIBLE_DEVICES"] == ",".join(taken[0])
    machine.give_back(taken[0])
    assert machine.take(stages["sft@a-0"], graph()) == taken[0]

    two = Machine({}, {}, ["0", "1", "2", "3"], processes=2)
    assert two.slots["gpu"] == 2
    assert [two.take(stages[name], graph()) for name in ("sft@a-0", "sft@b-0")] == [["0", "1"], ["2", "3"]]


def test_lines_are_understood() -> None:
    line = "[rl metaworld-flow_sde-0] 5/22 charts/success=0.61 losses/approx_kl=0.08 eta=1:03:10"
    assert progress(line) == Progress(5, 22, 3790, "charts/success=0.61 losses/approx_kl=0.08 eta=1:03:10")
    assert progress("[curate a] 3/9 eta=0:07") == Progress(3, 9, 7, "eta=0:07")
    assert progress("[rl a] resumed at 12/22") is None
    assert progress("[rl a] 5/22") == Progress(5, 22, None, "")
    assert [clock(s) for s in (7, 190, 3790)] == ["0:07", "3:10", "1:03:10"]
    assert level(line) == level("Running stage 'rl@a':") == logging.INFO
    assert level("[rl a] warning: approx_kl 1.3 at step 5 exceeds 1.0") == level("WARNING: x") == logging.WARNING
    assert level("ERROR: failed") == level("pirl: rl: no") == level("ValueError: x") == logging.ERROR
    assert slug("evaluate@ood_x-0") == "evaluate-ood-x-0"
    shown = describe(2, 4, {"rl@a": Progress(5, 20, 190, ""), "rl@b": None})
    assert shown == (56.2, "2 of 4 stages done; rl@a: 5/20, 3:10 left; rl@b: started")


def test_the_stages_own_exit_code_is_found_in_what_dvc_prints(workspace: Path) -> None:
    """Real DVC: it exits with 255 whatever the stage's code was."""
    turn(workspace, **{"curate a": {"exit": 2}})
    look_at_sources(workspace, environment(workspace))
    for address, code, unchanged in (("curate@a", 2, False), ("curate@b", None, False), ("curate@b", None, True)):
        command = [PYTHON, "-m", "dvc", "repro", "--single-item", address]
        done = subprocess.run(
            command, cwd=workspace, env=environment(workspace), text=True, stdout=-1, stderr=subprocess.STDOUT
        )
        transcript = Transcript()
        for line in done.stdout.splitlines():
            transcript.add(line)
        assert (transcript.exit_code, transcript.unchanged) == (code, unchanged), done.stdout
        if code:
            assert done.returncode not in (0, code)
            assert transcript.message == "told to fail"


def test_overrides_run_apart_and_leave_the_users_file_alone(workspace: Path) -> None:
    own = workspace / "params.yaml"
    before = own.read_bytes()
    dvc(workspace, "repro", "evaluate@b-flow_sde-0")
    assert open_workspace(check(workspace, None, {"rl.gamma": load_params(own).rl.gamma}, None)) == workspace

    # An edit that nobody has committed.
    source = workspace / "pirl_core" / "rl" / "losses.py"
    source.write_text(source.read_text() + "NEW = 1\n")
    overrides = {"experiments.b.evaluate.num_envs": 3, "report.title": "Another"}
    folder = open_workspace(check(workspace, None, overrides, ["b"]))
    assert folder.parent == workspace / RUNS
    params = load_params(folder / "params.yaml")
    assert (params.experiments["b"].evaluate["num_envs"], params.report.title) == (3, "Another")
    assert (folder / "pirl_core/rl/losses.py").read_bytes() == source.read_bytes()
    # What the override does not touch comes from the original's cache.
    printed = dvc(workspace, "repro", "evaluate@b-flow_sde-0", within=str(folder))
    assert begun(printed) == ["rl@b-flow_sde-0", "evaluate@b-flow_sde-0"]
    # The same parameters find the same folder again, others another.
    assert open_workspace(check(workspace, None, overrides, None)) == folder
    assert open_workspace(check(workspace, "smoke", None, None)) != folder
    assert own.read_bytes() == before
    # The workspaces below do not disturb the one above.
    look_at_sources(workspace, environment(workspace))
    stages = read_graph(workspace)
    assert len(stages) == 11
    assert {stage.address for stage in stages if not stage.stale} == {"curate@b", "sft@b-0"}
    # Kept by copying the keys: what the trial computed is not computed again.
    content = yaml.safe_load(before)
    content["experiments"]["b"]["evaluate"]["num_envs"] = 3
    own.write_text(yaml.safe_dump(content))
    printed = dvc(workspace, "repro", "evaluate@b-flow_sde-0")
    assert begun(printed) == [] and printed.count("is cached") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--experiment", "c"], "experiment 'c' is unknown; known: a, b"),
        (["--set", "rl.actor_lrr=1"], "did you mean 'actor_lr'"),
        (["--set", "rll.actor_lr=1"], "no section rll"),
        (["--set", "rl.actor_lr=fast"], "rl.actor_lr = "),
        (["--set", "rl.actor_lr"], "KEY=VALUE"),
        (["--set", "scale=smoke"], "--scale"),
        (["--set", "seeds=[0"], "--set seeds=[0 line 1: expected"),
        (["--set", "title=x"], "no such key"),
        (["--scale", "smoke", "--experiment", "a"], "experiment 'a' is unknown"),
    ],
)
def test_bad_parameters_are_one_line_before_anything_runs(
    arguments: list[str],
    said: str,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = make_workspace(tmp_path_factory.mktemp("workspace"))
    before = (folder / "params.yaml").read_bytes()
    monkeypatch.chdir(folder)
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("pirl: flow: ")
    assert said in printed
    assert printed.count("\n") == 1
    assert not (folder / "outputs").exists()
    assert (folder / "params.yaml").read_bytes() == before
    assert not list((folder / RUNS).rglob("*.yaml"))


def test_a_broken_parameter_file_and_a_wrong_folder(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workspace)
    (workspace / "params.yaml").write_text("rl: [")
    assert main([]) == 2
    monkeypatch.chdir("/")
    assert main([]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "params.yaml line 1" in first
    assert "no dvc.yaml here" in second


def test_a_server_that_does_not_answer(workspace: Path) -> None:
    more = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api"}
    done = subprocess.run(
        [PYTHON, "-m", "flows.run"], cwd=workspace, env=environment(workspace, **more), capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("pirl: flow: PREFECT_API_URL = ")
    assert done.stderr.count("\n") == 1


def test_values_on_the_command_line_are_those_of_the_file() -> None:
    given = ["rl.actor_lr=1e-5", "seeds=[0, 1]", "rl.target_kl=null", "env.fast_render=true", "report.title=a=b"]
    values = {
        "rl.actor_lr": 1e-5,
        "seeds": [0, 1],
        "rl.target_kl": None,
        "env.fast_render": True,
        "report.title": "a=b",
    }
    assert parse_overrides(given) == values


def test_importing_the_pipeline_never_needs_prefect(root: Path) -> None:
    for path in (root / "pirl_core").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import prefect" not in text and "from prefect" not in text and "from flows" not in text, path


# A process that ignores every polite signal, its child in a session of its own whose parent is gone, and a zombie.
STUBBORN = """\
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if sys.argv[1] != "leaf":
    parent = subprocess.Popen([sys.executable, __file__, "leaf" if sys.argv[1] == "middle" else "middle"],
                              start_new_session=True)
    if sys.argv[1] == "middle":
        os._exit(0)
    if os.fork() == 0:
        os._exit(0)
time.sleep(600)
"""
OWNER = """\
import subprocess, sys, time
held = subprocess.Popen([sys.executable, *sys.argv[1:]], stdin=subprocess.PIPE, start_new_session=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", ["the owner is killed", "SIGTERM", "SIGINT"])
def test_the_guard_leaves_nothing_behind(how: str, tmp_path: Path) -> None:
    stubborn, owner = tmp_path / "stubborn.py", tmp_path / "owner.py"
    stubborn.write_text(STUBBORN)
    owner.write_text(OWNER)
    process = subprocess.Popen([PYTHON, str(owner), str(GUARD), "1.5", PYTHON, str(stubborn), "top"])
    try:
        marked: list[psutil.Process] = []
        deadline = time.monotonic() + 20
        while sum("leaf" in words_of(p) for p in marked) < 1 or any("middle" in words_of(p) for p in marked):
            assert time.monotonic() < deadline, marked
            time.sleep(0.1)
            marked = [p for p in psutil.process_iter() if str(stubborn) in words_of(p)]
        # The owner has the same words behind its own.
        guard = next(p for p in marked if words_of(p)[1:2] == [str(GUARD)])
        if how == "the owner is killed":
            process.kill()
        else:
            guard.send_signal(getattr(signal, how))
        assert len(marked) == 4
        assert seconds_to_end([p for p in marked if p.pid != process.pid], 20) < 20
    finally:
        process.kill()
        process.wait()


NESTED = """\
import sys
from pathlib import Path
from flows.processes import Guards
for _ in range(3):
    print(Guards().run([sys.executable, "-c", "import time; time.sleep(60)"], Path.cwd(), {}, print), flush=True)
"""


def test_a_guard_leaves_no_zombies_of_guards_that_were_killed(workspace: Path) -> None:
    """As under a served deployment: guards below a guard. DVC takes a zombie's number for a living lock holder."""
    (workspace / "nested.py").write_text(NESTED)
    command = [PYTHON, str(GUARD), "1", PYTHON, str(workspace / "nested.py")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment(workspace)) as outer:
        assert outer.stdin is not None and outer.stdout is not None
        for _ in range(3):
            # nested.py, the inner guard and what it guards; that one is orphaned, then killed with the guard's session.
            while not (pair := [(p, p.children()) for p in below(outer.pid) if _is_guard(p) and p.children()]):
                time.sleep(0.05)
            ((inner, orphans),) = pair
            inner.kill()
            assert outer.stdout.readline() == "-9\n"
            deadline = time.monotonic() + 10
            while any(psutil.pid_exists(process.pid) for process in (inner, *orphans)):
                assert time.monotonic() < deadline, below(outer.pid)
                time.sleep(0.05)
        assert outer.wait(20) == 0


def _is_guard(process: psutil.Process) -> bool:
    return [Path(word).name for word in words_of(process)[1:2]] == [GUARD.name]


def test_a_guard_passes_on_the_exit_code() -> None:
    command = [sys.executable, str(GUARD), "1", sys.executable, "-c", "import sys; sys.exit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.wait(20) == 7
