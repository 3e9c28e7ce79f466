"""``pirl doctor``: what of this machine and this environment works, and what to do about the rest.

Whatever may hang or end its process, drivers and simulators, is tried in a child with a time limit.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pirl_core import named
from pirl_core.errors import UserError, first_line
from pirl_core.readers import variables
from pirl_core.report.tables import aligned, memory

SUMMARY = "what works on this machine, and the remedy for what does not"
GIB = 2**30
LEAST_DISK_GIB, LEAST_MEMORY_GIB = 10, 4
EXTRAS = {"serve": "pirl serve and evaluate", "flows": "the Prefect flow", "track": "run.trackers", "dev": "tests"}
WIDEST = 100
"""Characters of what was found."""
GPU = """
import torch
names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(f"torch {torch.__version__}: " + (", ".join(names) or "none"))
"""
OPENGL = "import mujoco; mujoco.GLContext(8, 8).make_current(); print('draws without a display')"
VULKAN = "import sapien; sapien.render.RenderSystem(sapien.Device('cpu')); print('draws')"
LIBRARIES = "apt-get install -y libegl1 libgl1-mesa-dri libosmesa6"
HUB_PROBE = "lerobot/metaworld_mt50"


class Found(NamedTuple):
    """state: ok; no, for what only some need; fails. remedy: '' where there is nothing to do."""

    what: str
    state: str
    found: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--benchmark", action="append", metavar="NAME", help="try only this one; may be repeated (default: all here)")
    add("--timeout", type=int, default=120, metavar="SECONDS", help="for each thing tried (default: %(default)s)")


def run(args: argparse.Namespace) -> None:
    """Raises UserError for a bad argument; what it finds is no error."""
    if args.timeout < 1:
        raise UserError(f"--timeout {args.timeout}: must be 1 or more")
    known = named.known(named.BENCHMARKS, "facts")
    for name in args.benchmark or ():
        if not named.exists(named.BENCHMARKS, name, "facts"):
            raise UserError(f"--benchmark {name:.60}: unknown; such are {', '.join(known)}, or a package of your own")
    found = []
    for check in (_tools, _packages, _machine, _disk, lambda: _drawing(args.timeout), _hub):
        found += list(check())
    for name in args.benchmark or known:
        print(f"trying {name}", file=sys.stderr, flush=True)
        found.append(_benchmark(name, args.timeout))
    print(aligned(["", "what", "found"], [[row.state, row.what, row.found[:WIDEST]] for row in found]))
    remedies = [f"  {row.what}: {row.remedy}" for row in found if row.remedy]
    print("\n".join(["", "What to do", *remedies]) if remedies else "\nNothing to do.")
    runs = [row.what for row in found if row.what.startswith("benchmark ") and row.state == "ok"]
    print(f"\nNext: {'make reproduce SCALE=smoke' if 'benchmark metaworld' in runs else 'mend what fails'}")


def _tools() -> Iterator[Found]:
    python = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 13)
    yield Found("python", "ok" if fits else "fails", python, "" if fits else "make setup PYTHON=/path/to/python3.11")
    for tool in ("git", "make"):
        place = shutil.which(tool)
        yield Found(tool, "ok" if place else "fails", place or "not on PATH", "" if place else f"install {tool}")


def _packages() -> Iterator[Found]:
    """What pyproject.toml asks for: itself, and of each extra what it adds."""
    lacking = _lacking("")
    yield Found(
        "packages", "fails" if lacking else "ok", "; ".join(lacking) or "as asked for", "make setup" if lacking else ""
    )
    for extra, use in EXTRAS.items():
        lacking = _lacking(extra)
        remedy = f"pip install 'pirl_core[{extra}]', for {use}" if lacking else ""
        yield Found(f"packages, {extra}", "no" if lacking else "ok", "; ".join(lacking) or "as asked for", remedy)


def _lacking(extra: str) -> list[str]:
    """Requirements that are not met, each in words."""
    from packaging.requirements import Requirement

    try:
        lines = requires("pirl_core") or []
    except PackageNotFoundError:
        return ["pirl_core itself is not installed"] if not extra else []
    found = []
    for line in lines:
        needed = Requirement(line)
        always = needed.marker is None or needed.marker.evaluate({"extra": ""})
        if always if not extra else not always and needed.marker and needed.marker.evaluate({"extra": extra}):
            try:
                have = version(needed.name)
            except PackageNotFoundError:
                found.append(f"{needed.name} is missing")
                continue
            if not needed.specifier.contains(have, prereleases=True):
                found.append(f"{needed.name} {have} is not {needed.specifier}")
    return found


def _machine() -> Iterator[Found]:
    import psutil

    cores = len(os.sched_getaffinity(0))
    try:
        threads, workers = variables.whole(variables.THREADS) or cores, variables.whole(variables.WORKERS) or cores
    except UserError as error:
        yield Found("threads", "fails", first_line(error), "unset it")
        threads = workers = cores
    busy = os.getloadavg()[0]
    shared = busy > cores / 2
    said = f"{cores} cores, load {busy:.1f}; {threads} threads, {workers} simulator workers"
    yield Found(
        "threads", "ok", said, f"others work here: set {variables.THREADS} and {variables.WORKERS} to what is free"
        if shared else "",
    )  # fmt: skip
    free = psutil.virtual_memory().available
    few = free < LEAST_MEMORY_GIB * GIB
    yield Found(
        "memory", "fails" if few else "ok", f"{memory(free / 2**20)} free",
        "end other programs, or lower rl.num_envs and evaluate.num_envs" if few else "",
    )  # fmt: skip


def _disk() -> Iterator[Found]:
    for what, path in (("disk here", Path()), ("disk of the home folder", Path.home())):
        free = shutil.disk_usage(path).free
        few = free < LEAST_DISK_GIB * GIB
        remedy = "free some: dvc gc --workspace drops what no present stage needs" if few else ""
        yield Found(what, "fails" if few else "ok", f"{free / GIB:.0f} GiB free", remedy)


def _drawing(seconds: int) -> Iterator[Found]:
    ok, said = _child([sys.executable, "-c", GPU], seconds)
    none = said.endswith("none")
    yield Found(
        "GPU", "fails" if not ok else "no" if none else "ok", said,
        "" if ok and not none else "for one, install its driver and torch with CUDA; a CPU does for tiny models",
    )  # fmt: skip
    drawn = {}
    for name in ("egl", "osmesa"):
        drawn[name] = _child([sys.executable, "-c", OPENGL], seconds, MUJOCO_GL=name, PYOPENGL_PLATFORM=name)
    either = any(ok for ok, _ in drawn.values())
    for name, (ok, said) in drawn.items():
        remedy = "" if ok or either else f"run {LIBRARIES}, as root"
        yield Found(f"OpenGL, {name}", "ok" if ok else "no" if either else "fails", said, remedy)
    if find_spec("sapien") is None:
        yield Found("Vulkan", "no", "sapien is not installed", "make setup EXTRAS=maniskill, for those on ManiSkill")
        return
    ok, said = _child([sys.executable, "-c", VULKAN], seconds)
    yield Found("Vulkan", "ok" if ok else "fails", said, "" if ok else "make setup EXTRAS=maniskill")


def _hub() -> Iterator[Found]:
    from huggingface_hub import constants, get_token

    from pirl_core.readers.hub import commit_of

    token = "with a token" if get_token() else "without a token"
    try:
        commit_of(HUB_PROBE, None, "dataset")
    except UserError as error:
        remedy = "see proxies and HF_ENDPOINT; only downloads of weights and data sets need it, folders do instead"
        yield Found("hub", "no", f"{constants.ENDPOINT}: {first_line(error).partition(';')[0]}", remedy)
    else:
        yield Found("hub", "ok", f"{constants.ENDPOINT} answers, {token}")


def _benchmark(name: str, seconds: int) -> Found:
    ok, said = _child([sys.executable, "-m", "pirl_core.envs.trial", name], seconds)
    said = said.removeprefix("pirl: trial: ")
    what, _, remedy = said.partition("; ")
    if ok:
        return Found(f"benchmark {name}", "ok", said)
    return Found(f"benchmark {name}", "no", what, remedy or f"see docs/benchmarks/{name}.md")


def _child(words: list[str], seconds: int, **settings: str) -> tuple[bool, str]:
    """Whether it ended well, and the last line that it said; ended with all its own after ``seconds``."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, **settings},
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        return False, f"no answer within {seconds} s"
    finally:
        # Whatever it started: a simulator's own processes keep the pipes open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = [line.strip() for line in (out if process.returncode == 0 else errors).splitlines() if line.strip()]
    if process.returncode < 0:
        return False, f"ended by {signal.Signals(-process.returncode).name}"
    return process.returncode == 0, (lines or ["no word"])[-1][:160]
