"""The same pipeline on several machines that share no disk: two clones, two workers, DVC's remote between them."""

import os
import re
import shutil
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("prefect")

from flows.processes import Guards
from flows.server import free_port
from flows.sharing import send
from flows.workspace import check, open_workspace
from pirl_core.errors import UserError
from tests.flows.test_flows import dvc
from tests.flows.test_flows_server import World, running
from tests.flows.workspace import below, environment, make_workspace, seconds_to_end, start_server, turn, wait_for
from tests.stages.test_pipeline import begun

POOL = (
    ("work-pool", "create", "pirl", "--type", "process"),
    ("--no-prompt", "deploy", "--name", "machines", "--prefect-file", "flows/prefect.yaml"),
)


def make_clone(folder: Path, store: Path) -> Path:
    """A workspace with that remote. Equal stages give equal outputs but for their time and machine, as for real."""
    make_workspace(folder)
    stand_in = folder / "bin/stand_in.py"
    always = "(uuid.uuid4() if 'outputs/run' in out else uuid.uuid5(uuid.NAMESPACE_OID, str(sys.argv[1:])))"
    stand_in.write_text(stand_in.read_text().replace("uuid.uuid4()", always))
    dvc(folder, "remote", "add", "--default", "store", str(store))
    return folder


def worker(core: int) -> list[str]:
    """Of one core, so that it runs a stage at a time."""
    cores = sorted(os.sched_getaffinity(0))
    return ["taskset", "--cpu-list", str(cores[core % len(cores)]), "flows/worker.sh"]


def made(folder: Path) -> dict[str, bytes]:
    files = [path for part in ("outputs", "results") for path in (folder / part).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def records(folder: Path) -> list[str]:
    """What the stages tell of their time and machine."""
    return [name for name in made(folder) if name.startswith("outputs/run/")]


def kill(process: psutil.Process) -> None:
    """It and all below it, at once, as by a power cut."""
    everything = [process, *below(process.pid)]
    for one in everything:
        one.kill()
    seconds_to_end(everything, 10)


def test_what_is_finished_is_sent_also_from_a_folder_apart(tmp_path: Path) -> None:
    """Its remote is the clone's, though that is a path as seen from the clone's configuration."""
    clone = make_clone(tmp_path / "clone", Path("../store"))
    apart = open_workspace(check(clone, None, {"report.title": "Apart"}, None))
    for folder, stage in ((clone, "curate@a"), (apart, "curate@b")):
        dvc(clone, "repro", stage, within=str(folder))
        send(folder, [stage], environment(clone), Guards())
    one = make_clone(tmp_path / "one", Path("../store"))
    assert begun(dvc(one, "repro", "--pull", "curate@a", "curate@b")) == []

    shutil.rmtree(tmp_path / "store")
    (tmp_path / "store").write_text("a file")
    with pytest.raises(
        UserError, match=r"PIRL_SHARE = '1': what is finished cannot be sent to DVC's remote: .+"
    ) as told:
        send(clone, ["curate@a"], environment(clone), Guards())
    assert "\n" not in str(told.value)
    dvc(clone, "remote", "remove", "store")
    with pytest.raises(UserError, match="DVC has no default remote; dvc remote add -d"):
        send(clone, [], environment(clone), Guards())


@pytest.mark.slow
def test_a_lost_machine_costs_its_stage_only(tmp_path: Path) -> None:
    """The other one takes over what it was at, and ends with what a single clone makes; back again, it fetches all."""
    one, other, alone = (make_clone(tmp_path / name, tmp_path / "store") for name in ("one", "other", "alone"))
    dvc(alone, "repro")
    for folder in (one, other):  # as committed, while its outputs are nowhere
        shutil.copy(alone / "dvc.lock", folder)
    server, api_url = start_server(alone, free_port())
    first, second = World(one, api_url), World(other, api_url)
    for folder in (one, other):
        turn(folder, all={"steps": 8, "seconds": 1})
    with running(server):
        for command in POOL:
            code, printed = World(alone, api_url).finish("prefect", *command)
            assert code == 0, printed
        with running(first.launch(worker(0))) as lost, running(second.launch(worker(1))):
            runs = [first.flow_run("machines") for _ in range(2)]
            for world in (first, second):
                wait_for(world.log, "Running stage '", patience=300)
            wait_for(first.log, " 2/8 ", 1 + first.log.read_text().count(" 2/8 "), patience=300)
            kill(psutil.Process(lost.pid))
            deadline = time.monotonic() + 600
            while "Completed" not in (states := [second.state(run) for run in runs]):
                assert time.monotonic() < deadline, (states, second.log.read_text()[-4000:])
                time.sleep(1)
        mine, theirs = (begun(world.log.read_text()) for world in (first, second))
        finished = set(re.findall(r"Task run '([^']+)' - Finished in state Completed", first.log.read_text()))
        assert len({*mine, *theirs}) == 11 and len(theirs) == len(set(theirs)), (mine, theirs)
        assert set(mine) & set(theirs) == set(mine) - finished != set(), (mine, theirs, finished)

        assert made(other).keys() == made(alone).keys()
        assert {name for name, text in made(other).items() if made(alone)[name] != text} == set(records(other))

        turn(one)
        with running(first.launch(worker(0))):
            again = first.flow_run("machines")
            assert first.wait_for_state(again, "Completed", "Failed", "Crashed", patience=300) == "Completed"
        # The report's files for git are in no remote.
        assert set(begun(first.log.read_text())) <= {"report"}
        assert made(one) == made(other)
