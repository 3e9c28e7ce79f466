"""A stage ends with whoever started it: real processes, real signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests import ROOT

# Under a process called dvc, a shell, and below that something that would run for ever.
STAGE = """
import sys, time
from pathlib import Path
print("started", flush=True)
time.sleep(float(sys.argv[1]))
from pirl_core.stages.alive import mortal
with mortal():
    Path("alive").write_text("")
    while True:
        time.sleep(0.1)
"""
DVC = "import subprocess, sys; subprocess.run(['sh', '-c', ' '.join(sys.argv[1:]) + '; true'])\n"


def start(folder: Path, delay: float) -> tuple["subprocess.Popen[str]", list[psutil.Process]]:
    """The fake dvc, and the shell and the stage below it."""
    (folder / "dvc").write_text(DVC)
    (folder / "stage.py").write_text(STAGE)
    environment = {**os.environ, "DVC_STAGE": "rl", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "dvc", sys.executable, "stage.py", str(delay)]
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process, psutil.Process(process.pid).children(recursive=True)


def ends(process: psutil.Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("victim", ["dvc", "shell"])
@pytest.mark.parametrize("moment", ["while it runs", "before it could look"])
def test_a_stage_does_not_outlive_dvc(victim: str, moment: str, tmp_path: Path) -> None:
    process, (shell, stage) = start(tmp_path, 0.0 if moment == "while it runs" else 1.5)
    try:
        if moment == "while it runs":
            while not (tmp_path / "alive").exists():
                time.sleep(0.05)
        os.kill(process.pid if victim == "dvc" else shell.pid, signal.SIGKILL)
        assert ends(stage, 5)
        assert (tmp_path / "alive").exists() == (moment == "while it runs")
    finally:
        for left in (stage, shell, psutil.Process(process.pid)):
            if left.is_running():
                left.kill()
        process.wait()
