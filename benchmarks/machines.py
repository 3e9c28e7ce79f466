"""The pipeline on two machines that share no disk, one of which is killed, against one clone that runs it alone.

Two clones on this machine stand for the machines, each with a Prefect worker on cores of its own; between them are a
Prefect server and a folder as DVC's remote. One machine is killed, worker, flow and stage at once, while it trains.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.measure import Row, part_parser, run_part, seconds
from flows.server import answers, free_port

ROOT = Path(__file__).resolve().parents[1]
TIMED = ("run", "report", "timing.jsonl")
TARGET = "0; at most the one that died"


def environment(folder: Path, api_url: str) -> dict[str, str]:
    """Of a user in that folder, a clone or what the clones lie in."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PIRL_"))}
    path = f"{Path(sys.executable).parent}{os.pathsep}{own['PATH']}"
    home = {"PREFECT_HOME": str(folder / ".prefect"), "PREFECT_API_URL": api_url}
    return {**own, **home, "PATH": path, "PWD": str(folder), "PYTHONPATH": str(folder)}


def clone_of(home: Path, name: str, scale: str) -> Path:
    """Of the last commit, with a remote that all clones in ``home`` have."""
    clone = home / name
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    python(clone, "", "pirl_core.commands.scale", scale, "--force")
    python(clone, "", "dvc", "remote", "add", "--default", "store", str(home / "store"))
    return clone


def python(folder: Path, api_url: str, *command: str) -> None:
    """``python -m COMMAND``, whose last lines are told where it fails."""
    told = [sys.executable, "-m", *command]
    done = subprocess.run(
        told, cwd=folder, env=environment(folder, api_url), check=False, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")


@contextmanager
def running(folder: Path, command: list[str], api_url: str) -> Iterator[tuple[int, Path]]:
    """The command's process in the folder, and what it prints; at the end it is gone with all that it started."""
    log = folder / "printed.log"
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command, cwd=folder, env=environment(folder, api_url), stdout=printed, stderr=subprocess.STDOUT
        )
    try:
        yield process.pid, log
    finally:
        kill(process.pid)
        process.wait()


def kill(pid: int) -> None:
    """The process and all below it, at once, as by a power cut."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)


def wait_until(told: Callable[[], bool], patience: float, what: str) -> None:
    deadline = time.monotonic() + patience
    while not told():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {patience:.0f} s")
        time.sleep(0.2)


def files_of(clone: Path) -> dict[str, bytes]:
    """Outputs but for what tells of seconds and machines: records of stages, logs of time, and the report with them."""
    found = {path.relative_to(clone / "outputs"): path for path in (clone / "outputs").rglob("*") if path.is_file()}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in found.items()
        if name.parts[0] not in TIMED and name.name not in TIMED
    }


def begun(log: Path) -> list[str]:
    """Stages that ran there, in their order, but for the one that always does."""
    return [name for name in re.findall(r"Running stage '([^']+)'", log.read_text()) if name != "sources"]


def start_run(api_url: str) -> str:
    found = httpx.get(f"{api_url}/deployments/name/pirl/machines").raise_for_status().json()
    body: dict[str, Any] = {"parameters": {}}
    made = httpx.post(f"{api_url}/deployments/{found['id']}/create_flow_run", json=body).raise_for_status()
    return str(made.json()["id"])


def state(api_url: str, run: str) -> str:
    return str(httpx.get(f"{api_url}/flow_runs/{run}").raise_for_status().json()["state"]["name"])


def worker(number: int) -> list[str]:
    """Of half of the cores."""
    cores = sorted(os.sched_getaffinity(0))
    own = cores[number::2] or cores
    return ["taskset", "--cpu-list", ",".join(map(str, own)), "flows/worker.sh"]


def together(one: Path, other: Path, killed_at: str, patience: float) -> tuple[list[str], list[str]]:
    """Both machines at work until the other one is done; returns what each began, the last of the first died."""
    port = free_port()
    api_url = f"http://127.0.0.1:{port}/api"
    serve = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with running(one.parent, serve, api_url):
        wait_until(lambda: answers(api_url), 120, "the Prefect server")
        python(one, api_url, "prefect", "work-pool", "create", "pirl", "--type", "process")
        deploy = ("--no-prompt", "deploy", "--name", "machines", "--prefect-file", "flows/prefect.yaml")
        python(one, api_url, "prefect", *deploy)
        with running(one, worker(0), api_url) as (lost, first), running(other, worker(1), api_url) as (_, second):
            runs = [start_run(api_url) for _ in range(2)]
            wait_until(lambda: any(name.startswith(killed_at) for name in begun(first)), patience, killed_at)
            kill(lost)
            wait_until(lambda: "Completed" in [state(api_url, run) for run in runs], patience, "the other machine")
            return begun(first), begun(second)


def rows(options: argparse.Namespace) -> list[Row]:
    what = "pipeline on two machines without a shared disk, one killed / one clone alone: files that differ"
    if find_spec("prefect") is None:
        return [Row(what, "not measured", TARGET, None, "Prefect is not installed")]
    with tempfile.TemporaryDirectory(prefix="machines-") as folder:
        alone, one, other = (clone_of(Path(folder), name, options.scale) for name in ("alone", "one", "other"))
        quiet = seconds(lambda: python(alone, "", "pirl_core.commands.repro"))
        begin = time.perf_counter()
        mine, theirs = together(one, other, options.killed_at, options.patience)
        spent = time.perf_counter() - begin
        kept, made = files_of(alone), files_of(other)
    differ = sum(kept.get(name) != made.get(name) for name in kept.keys() | made.keys())
    twice = set(mine) & set(theirs)
    return [
        Row(
            what,
            f"{differ} of {len(kept)}; {len(twice)} stage run twice",
            TARGET,
            differ == 0 and twice <= {mine[-1]},
            f"scale {options.scale}, {len({*mine, *theirs})} stages; Prefect's workers in clones with a core each, a"
            f" folder as remote; SIGKILL of a worker and all below it at {mine[-1]}, after {len(mine) - 1} other"
            f" stages; {spent:.0f} s from the server's start, {quiet:.0f} s alone on all cores",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("machines", __doc__)
    parser.add_argument("--scale", default="smoke", help="of the pipeline")
    parser.add_argument("--killed-at", default="rl@", help="the machine dies when a stage that begins so does")
    parser.add_argument("--patience", type=float, default=1800, help="seconds for each of the two parts")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
