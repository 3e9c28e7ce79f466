"""A small DVC workspace for the flows: the real dvc.yaml, and stage commands that print, sleep and fail as told."""

import copy
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from pirl_core.params.preset import preset_values
from tests import ROOT
from tests.stages.test_pipeline import STAND_IN, copy_project

PYTHON = sys.executable
# Before the stand-in writes its outputs. knobs.json: per "stage name", or for "all", how it behaves.
KNOBS = """\
import json, os, pathlib, sys, time
stage = sys.argv[2].rpartition(".")[2]
name = "-".join(sys.argv[i + 1] for i in range(3, len(sys.argv) - 1) if sys.argv[i].startswith("--"))
path = pathlib.Path(os.environ["KNOBS"])
knobs = json.loads(path.read_text()) if path.exists() else {}
knob = knobs.get(f"{stage} {name}", knobs.get("all", {}))
for variable in ("PIRL_THREADS", "PIRL_WORKERS", "PIRL_FRESH", "PYTHONPATH"):
    print(f"{variable}={os.environ.get(variable)}")
steps = knob.get("steps", 1)
for i in range(steps):
    time.sleep(knob.get("seconds", 0))
    print(f"[{stage} {name}] {i + 1}/{steps} charts/success=0.5 eta=0:{steps - i - 1:02d}")
if "exit" in knob:
    print(f"pirl: {stage}: told to fail", file=sys.stderr)
    sys.exit(knob["exit"])
"""


def make_workspace(folder: Path) -> Path:
    """Two experiments, eleven stages; ``bin/python`` in it stands for python, and the flows are there as in a clone."""
    copy_project(ROOT, folder)
    params = preset_values("smoke")
    params["methods"] = {"flow_sde": params["methods"]["flow_sde"]}
    params["policies"] = ["sft", "flow_sde"]
    one = params["experiments"]["metaworld"]
    params["experiments"] = {"a": one, "b": copy.deepcopy(one)}
    (folder / "params.yaml").write_text("# a comment of the user's\n" + yaml.safe_dump(params, sort_keys=False))
    (folder / "bin" / "stand_in.py").write_text(KNOBS + STAND_IN)
    python = folder / "bin" / "python"
    # What the code does is looked at for real.
    python.write_text(
        f'#!/bin/sh\n[ "$2" = pirl_core.stages.sources ] && exec "{PYTHON}" "$@"\n'
        f'exec "{PYTHON}" -S "{folder}/bin/stand_in.py" "$@"\n'
    )
    python.chmod(0o755)
    return folder


def turn(folder: Path, **knobs: Any) -> None:
    """``turn(folder, all={"steps": 3, "seconds": 0.5})``; a stage's name goes in by **{"sft b-0": ...}."""
    (folder / "knobs.json").write_text(json.dumps(knobs))


def environment(folder: Path, **more: str) -> dict[str, str]:
    """Of a user in that folder whose environment is active, with a Prefect home apart."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PIRL_"))}
    return {
        **own,
        "PATH": f"{folder / 'bin'}:{Path(PYTHON).parent}:{os.environ['PATH']}",
        "SHELL": "/bin/sh",
        "KNOBS": str(folder / "knobs.json"),
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(folder),
        "PREFECT_HOME": str(folder / "prefect"),
        **more,
    }


def below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def words_of(process: psutil.Process) -> list[str]:
    """Its command line. Empty where it is gone, a zombie or another user's."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def seconds_to_end(processes: list[psutil.Process], patience: float) -> float:
    """Wall time until none of them runs. Fails after ``patience`` seconds."""
    begun = time.monotonic()
    while left := [process for process in processes if _runs(process)]:
        assert time.monotonic() - begun < patience, [words_of(process) for process in left]
        time.sleep(0.05)
    return time.monotonic() - begun


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stages_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """DVC, its guards, and the stage commands."""
    found = []
    for process in processes:
        words = " ".join(words_of(process))
        if "dvc" in words or "stand_in.py" in words or "pirl_core.stages" in words:
            found.append(process)
    return found


def wait_for(log: Path, text: str, count: int = 1, patience: float = 90) -> None:
    deadline = time.monotonic() + patience
    while log.read_text(errors="replace").count(text) < count:
        assert time.monotonic() < deadline, log.read_text(errors="replace")[-4000:]
        time.sleep(0.1)


def ask(api_url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """GET, or POST where there is a body; again, as Prefect's own client does, where the server's database is busy."""
    deadline = time.monotonic() + 60
    while True:
        answer = httpx.request("GET" if body is None else "POST", api_url + path, json=body, timeout=30)
        if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    answer.raise_for_status()
    return answer.json() if answer.content else None


def start_server(folder: Path, port: int) -> tuple["subprocess.Popen[bytes]", str]:
    """Prefect's own command, with its database in that folder."""
    server = subprocess.Popen(
        [PYTHON, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
        env=environment(folder),
        cwd=folder,
        stdout=(folder / "server.log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    api_url = f"http://127.0.0.1:{port}/api"
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"{api_url}/health", timeout=5).status_code == 200:
                return server, api_url
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                server.kill()
                raise AssertionError((folder / "server.log").read_text()[-3000:]) from None
            time.sleep(0.2)
