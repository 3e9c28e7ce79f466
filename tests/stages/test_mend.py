"""What kills leave of DVC's own files: found broken exactly when DVC could not go on, and put right without a hand."""

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from pirl_core.files import write_text
from pirl_core.stages.lock import PIPELINE, take
from pirl_core.stages.mend import BROKEN, COPY, RECORD, is_whole, keep_record, mend
from tests.flows.workspace import PYTHON, environment, make_workspace
from tests.stages.test_pipeline import begun

HOLDERS = Path(".dvc/tmp/rwlock")
IDLE = "import time; time.sleep(60)"


@pytest.fixture
def record(root: Path) -> bytes:
    """A ``dvc.lock`` of DVC's own writing, with few entries of each kind."""
    content = yaml.safe_load((root / RECORD).read_bytes())
    del content["stages"]["sources"]  # which has neither
    for entry in content["stages"].values():
        entry["deps"], entry["params"] = entry["deps"][:2], {"params.yaml": {"report": {"title": "π_RL"}, "seeds": [0]}}
    content["stages"] = dict(list(content["stages"].items())[-2:])
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / ".dvc/tmp").mkdir(parents=True)
    return tmp_path


def test_a_cut_is_whole_only_where_dvc_reads_it(record: bytes, root: Path) -> None:
    """Every place where a write can end. What passes has whole lines, and lacks at most the end."""
    assert is_whole((root / RECORD).read_bytes())
    passed = 0
    for end in range(len(record)):
        if is_whole(cut := record[:end]):
            passed += 1
            assert cut.endswith(b"\n")
            COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(cut))
        elif cut.endswith(b"\n"):
            with pytest.raises((Invalid, KeyError, TypeError)):
                assert COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(cut))["stages"]
    assert passed > 5
    # Some file systems keep the length and lose the bytes.
    assert not is_whole(record[:300] + bytes(len(record) - 300))


@pytest.mark.parametrize("damage", [lambda r: b"", lambda r: r[:-1], lambda r: bytes(50), lambda r: b"\xff" + r])
def test_a_broken_record_is_put_back_from_the_newest_whole_copy(damage: Any, record: bytes, here: Path) -> None:
    (here / RECORD).write_bytes(record)
    assert mend(here) == []
    newer = record.replace(b"size: 1", b"size: 2")
    (here / RECORD).write_bytes(newer)
    keep_record(here)
    broken = damage(newer)
    (here / RECORD).write_bytes(broken)
    keep_record(here)
    assert len(mend(here)) == 1
    assert ((here / RECORD).read_bytes(), (here / BROKEN).read_bytes()) == (newer, broken)
    assert mend(here) == []


def test_without_a_copy_dvc_begins_a_new_record(record: bytes, here: Path) -> None:
    for copy in (None, record[:-2]):
        (here / RECORD).write_bytes(record[:-1])
        if copy:
            write_text(here / COPY, copy.decode())
        assert "no copy" in mend(here)[0]
        assert not (here / RECORD).exists()
        # A record that somebody removed stays away.
        assert mend(here) == []


def test_a_merge_is_left_to_whoever_began_it(record: bytes, here: Path) -> None:
    (here / RECORD).write_bytes(record)
    mend(here)
    conflict = record.replace(b"  report:\n", b"<<<<<<< HEAD\n  report:\n=======\n>>>>>>> other\n")
    (here / RECORD).write_bytes(conflict)
    assert mend(here) == []
    assert (here / RECORD).read_bytes() == conflict


def test_nothing_is_copied_while_dvc_writes(record: bytes, here: Path) -> None:
    (here / RECORD).write_bytes(record)
    with (here / ".dvc/tmp/lock").open("a") as dvc:
        fcntl.flock(dvc, fcntl.LOCK_EX)
        keep_record(here)
        assert not (here / COPY).exists()
    keep_record(here)
    assert (here / COPY).read_bytes() == record


@contextmanager
def child(*words: str, folder: Path | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, *words], cwd=folder, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_only_the_locks_of_the_living_stay(here: Path) -> None:
    """Not the dead's, not a zombie's, and not a number's that another process has got since."""
    path = here / HOLDERS
    with child("-c", "") as zombie, child("-c", IDLE) as later:
        gone = subprocess.Popen(["true"])
        gone.wait()
        os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
        dead, undead, young, alive = (
            {"pid": pid, "cmd": "dvc repro"} for pid in (gone.pid, zombie.pid, later.pid, os.getpid())
        )
        path.write_text(
            json.dumps({
                "write": {"/a": alive, "/b": dead, "/c": undead, "/d": young},
                "read": {"/a": [dead, alive, undead], "/b": [dead, undead], "/c": [young]},
            })
        )  # fmt: skip
        assert len(mend(here)) == 1
        kept = {"write": {"/a": alive, "/d": young}, "read": {"/a": [alive], "/c": [young]}}
        assert json.loads(path.read_text()) == kept
        assert mend(here) == []
        # Written a while before the young one was born, when the oldest ran already.
        then = psutil.Process(later.pid).create_time() - 61
        os.utime(path, (then, then))
        assert len(mend(here)) == 1
        assert json.loads(path.read_text()) == {"write": {"/a": alive}, "read": {"/a": [alive]}}
        # A clock that was put back must not cost a living process its lock.
        own = {"pid": later.pid, "cmd": f"/bin/dvc {IDLE}"}
        path.write_text(json.dumps({"write": {"/d": own}, "read": {}}))
        os.utime(path, (then, then))
        assert mend(here) == []


@pytest.mark.parametrize("text", ["", '{"write": {"/a": {"pi', "{}{}", "[]", '{"write": {"/a": 3}}', "\0" * 9])
def test_a_broken_list_of_locks_is_dropped_unless_a_dvc_works_here(text: str, here: Path) -> None:
    path = here / HOLDERS
    path.write_text(text)
    (here / "dvc").write_text("import time; print(flush=True); time.sleep(60)")
    with child("dvc", folder=here) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert "left" in mend(here)[0]
        assert path.read_text() == text
    assert "dropped" in mend(here)[0]
    assert not path.exists()
    assert mend(here) == []


def repro(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [PYTHON, "-m", "pirl_core.commands.repro", *arguments],
        cwd=folder, env=environment(folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def test_a_rerun_after_every_kind_of_damage_runs_no_finished_stage(tmp_path: Path) -> None:
    """Real DVC. The stand-in's outputs are new at each run, so a stage that ran again would be seen."""
    folder = make_workspace(tmp_path)
    stages = ("curate@a", "sft@a-0")

    def run() -> tuple[set[str], str]:
        process = repro(folder, *stages)
        printed, _ = process.communicate(timeout=120)
        assert process.returncode == 0, printed
        return set(begun(printed)), printed

    def outputs() -> dict[str, str]:
        return {str(path): path.read_text() for path in (folder / "outputs").rglob("*") if path.is_file()}

    assert run()[0] == set(stages)
    made = outputs()
    record = (folder / RECORD).read_bytes()
    # The run itself has no copy of its own end; of the first stage's, the second would have made one.
    assert not (folder / COPY).exists()
    (folder / RECORD).write_bytes(b"")
    (folder / HOLDERS).write_text('{"write": {"')
    ran, printed = run()
    assert ran == set() and printed.count("pirl: repro: ") == 2, printed
    assert ((folder / RECORD).read_bytes(), outputs()) == (record, made)

    assert run()[0] == set()
    assert (folder / COPY).read_bytes() == record
    (folder / RECORD).write_bytes(record[:-3])
    ran, printed = run()
    assert ran == set() and printed.count("didn't change, skipping") == 2, printed
    assert ((folder / RECORD).read_bytes(), outputs()) == (record, made)


def test_a_second_run_waits_for_the_first(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path)
    first = take(folder / PIPELINE)
    second = repro(folder, "--dry", "curate@a")
    assert second.stdout is not None
    line = second.stdout.readline()
    who = rf"{os.getpid()} \(\S*python.*, since \d{{4}}-\d\d-\d\d \d\d:\d\d\)"
    assert re.fullmatch(rf"pirl: repro: process {who} runs the pipeline here; waiting for its end\n", line), line
    time.sleep(0.5)
    assert second.poll() is None
    first.close()
    printed, _ = second.communicate(timeout=60)
    assert second.returncode == 0 and "Running stage 'curate@a'" in printed, printed
    # DVC has taken the place of the process that held the lock, and let go of it with its end.
    take(folder / PIPELINE, 0).close()


def test_what_dvc_should_not_begin_with(tmp_path: Path) -> None:
    folder = make_workspace(tmp_path)
    (folder / "outputs/curate/a").mkdir(parents=True)
    (folder / "params.yaml").write_text((folder / "params.yaml").read_text().replace("actor_lr", "actor_lrr"))
    process = repro(folder)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert re.fullmatch(r"pirl: repro: params\.yaml: [^\n]*did you mean 'actor_lr'[^\n]*\n", printed), printed
    assert (folder / "outputs/curate/a").is_dir()
