"""Several `dvc repro` at once, and a few kills: nothing is corrupted, nothing is lost. Real DVC, real stages."""

import os
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stages.survive_kills import PLAIN, disturbed, prepare, present, repro, result
from tests.stages.test_end_to_end import command, variables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which the pipeline ran once, undisturbed."""
    folder = prepare(tmp_path_factory.mktemp("whole"))
    assert repro(folder, 1).wait(300) == 0, (folder / "log.txt").read_text()[-2000:]
    return folder


def test_the_same_pipeline_twice_at_once(whole: Path, tmp_path: Path) -> None:
    folder = prepare(tmp_path)
    runs = [repro(folder, 1) for _ in range(2)]
    codes = [run.wait(300) for run in runs]
    log = (folder / "log.txt").read_text()
    assert codes == [0, 0], log[-2000:]
    # One of them waited with a word, and found everything done and right.
    assert log.count(" runs the pipeline here; waiting for its end\n") == 1
    assert log.rstrip().endswith("Stage 'report' didn't change, skipping")
    assert result(folder) == result(whole)
    assert present(folder) == []


def test_different_stages_at_once(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / ".dvc/cache/runs")
    addresses = ["rl@metaworld-flow_sde-0", "rl@metaworld-flow_noise-0", "evaluate@metaworld-sft-0"]
    runs = [repro(tmp_path, 1, "--force", "--single-item", address, module=PLAIN) for address in addresses]
    assert [run.wait(300) for run in runs] == [0, 0, 0], (tmp_path / "log.txt").read_text()[-2000:]
    assert repro(tmp_path, 1).wait(120) == 0
    assert result(tmp_path) == result(whole)


def test_the_same_stage_twice_without_dvc(whole: Path, tmp_path: Path) -> None:
    """The stage's own lock: the second waits a little, then says who has it."""
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    params = tmp_path / "params.yaml"
    params.write_text(params.read_text().replace("iterations: 5", "iterations: 5000"))
    first = subprocess.Popen(
        command("rl", "0", "flow_sde"), cwd=tmp_path, env=variables(1), stdout=subprocess.PIPE, text=True
    )
    assert first.stdout is not None and "/5000" in first.stdout.readline()
    second = subprocess.run(
        command("rl", "0", "flow_sde"), cwd=tmp_path, env=variables(1), capture_output=True, text=True, timeout=60
    )
    assert second.returncode == 2
    who = rf"process {first.pid} \(.*pirl_core.stages.rl .*, since .*\)"
    said = rf"pirl: rl: rl metaworld-flow_sde-0 is being run by {who} already; wait for it or stop it\n"
    assert re.fullmatch(said, second.stderr), second.stderr
    first.terminate()
    assert first.wait(20) == 143


def test_a_full_disk_stops_cleanly_and_goes_on_once_there_is_room(whole: Path, small_disk: Path) -> None:
    folder = small_disk / "workspace"
    shutil.copytree(whole, folder, ignore=shutil.ignore_patterns("cache", "tmp", "log.txt"))
    shutil.rmtree(folder / "outputs/policy/metaworld-flow_sde-0")
    shutil.rmtree(folder / "outputs/rl")
    rl = command("rl", "0", "flow_sde")
    settings: dict[str, Any] = {"cwd": folder, "env": variables(1), "text": True}
    room = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    fill = small_disk / "fill"
    fill.write_bytes(bytes(room - 1_500_000))
    done = subprocess.run(rl, **settings, capture_output=True, timeout=120)
    assert done.returncode == 2
    assert re.fullmatch(r"pirl: rl: no room(| for \S+) \(No space left on device\); .*\n", done.stderr), done.stderr
    for part in ("rl", "policy"):
        assert not list((folder / "outputs" / part).glob("*flow_sde*"))
    fill.unlink()
    done = subprocess.run(rl, **settings, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "resumed at" in done.stdout
    mine, theirs = result(folder), result(whole)
    same = [name for name in theirs if "flow_sde" in name and "evaluate" not in name]
    assert len(same) > 4
    assert all(mine[name] == theirs[name] for name in same)


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.soak), 2])
def test_killed_twice_and_still_the_same_bytes(ranks: int, whole: Path, tmp_path: Path) -> None:
    """Two ranks add in another order than one, so they have their own undisturbed run."""
    expected = whole
    if ranks > 1:
        expected = prepare(tmp_path / "undisturbed")
        assert repro(expected, ranks).wait(300) == 0
    folder = prepare(tmp_path / "killed")
    kills, ended = disturbed(folder, ranks, 2, random.Random(ranks), aimed=1)
    assert ended
    # A run may end before a kill that was aimed at its last writes.
    assert 1 <= kills.total() <= 2
    assert result(folder) == result(expected)
