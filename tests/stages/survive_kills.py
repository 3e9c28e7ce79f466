"""Kills the pipeline at random moments, runs it again each time, and compares the end with an undisturbed run.

python -m tests.stages.survive_kills --kills 60 --aimed 20

Each round is a fresh copy of the repository at a small scale, run with `python -m pirl_core.commands.repro`. At a
random moment SIGKILL goes to the whole process tree, or to one process of it: DVC, its shell, the stage, a rank, a
worker.
An aimed kill meets DVC while it writes one of its own files. What is left over after that must be gone within five
seconds; then the same command goes on. metrics.json, policies and metric logs must be those of the undisturbed run,
byte for byte.
"""

import argparse
import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

from tests import ROOT
from tests.flows.workspace import words_of
from tests.stages.test_end_to_end import workspace
from tests.stages.test_pipeline import begun

PATTERNS = ("results/*/metrics.json", "outputs/policy/*/*", "outputs/*/*/metrics.jsonl", "outputs/evaluate/*/*.parquet")
LONGEST_SECONDS = 25.0
# What DVC writes in place. How often its time may change before the kill, and how long after that: a record is written
# in a piece or two, the list of locks in one, twice a stage and more.
TARGETS = {"dvc.lock": (6, 0.01), ".dvc/tmp/rwlock": (12, 0.001)}
AIMED = "dvc at "
PLAIN = ("dvc", "--wait-for-lock", "repro")
SECONDS_TO_GO = 15.0
SECONDS_TO_END = 60.0


def prepare(folder: Path) -> Path:
    """A workspace for DVC without git, at a small scale, that saves a checkpoint at every chance."""
    workspace(folder)
    shutil.copy(ROOT / "dvc.yaml", folder)
    shutil.copy(ROOT / ".dvcignore", folder)
    (folder / ".dvc").mkdir()
    (folder / ".dvc/config").write_text((ROOT / ".dvc/config").read_text() + "    no_scm = true\n")
    params = yaml.safe_load((folder / "params.yaml").read_text())
    params["run"].update(checkpoint_minutes=0, validation_videos=0)
    params["evaluate"]["videos_per_outcome"] = 0
    params["sft"].update(steps=40, log_every=4)
    params["rl"]["iterations"] = 5
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    return folder


def repro(
    folder: Path, ranks: int, *options: str, module: Sequence[str] = ("pirl_core.commands.repro",)
) -> "subprocess.Popen[bytes]":
    """In a session of its own; its output goes to log.txt. module: PLAIN for DVC's own command."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "PIRL_PROCESSES": str(ranks),
        "PIRL_THREADS": str(ranks),
        "PIRL_WORKERS": "2",
    }
    with (folder / "log.txt").open("ab") as log:
        command = [sys.executable, "-m", *module, *options]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def result(folder: Path) -> dict[str, str]:
    """What must not depend on how often the run was killed."""
    found = sorted({path for pattern in PATTERNS for path in folder.glob(pattern)})
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def present(folder: Path) -> list[psutil.Process]:
    """Processes that work in ``folder``."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def kind(process: psutil.Process) -> str:
    """What a process of the tree is."""
    words = " ".join(words_of(process))
    if "resource_tracker" in words:
        return "other"
    if "vector.worker" in words or "multiprocessing" in words:
        return "worker"
    if not process.name().startswith("python"):
        return "shell" if "pirl_core.stages" in words else "other"
    if "pirl_core.stages" in words:
        return "rank" if "RANK" in process.environ() else "stage"
    return "dvc" if re.search(r"\bdvc ", f"{words} ") else "other"


def begun_in(folder: Path) -> list[str]:
    """Stages that the run has begun, in order."""
    return [name.partition("@")[0] for name in begun((folder / "log.txt").read_text())]


def kill_all(run: "subprocess.Popen[bytes]") -> None:
    top = psutil.Process(run.pid)
    tree = [top, *top.children(recursive=True)]
    for process in tree:
        process.suspend()  # none of them shall notice before its own turn
    for process in tree:
        process.kill()


def kill(run: "subprocess.Popen[bytes]", draw: random.Random) -> str:
    """SIGKILL to the whole tree or to one process of it; returns which."""
    top = psutil.Process(run.pid)
    tree = [top, *top.children(recursive=True)]
    if draw.random() < 0.4:
        kill_all(run)
        return "all"
    victim, name = draw.choice([(process, kind(process)) for process in tree if kind(process) != "other"])
    victim.kill()
    return name


def aim(folder: Path, run: "subprocess.Popen[bytes]", draw: random.Random) -> str:
    """SIGKILL to DVC while it writes a file of its own; returns which. Empty where it ended before."""
    name, (most, longest) = draw.choice(list(TARGETS.items()))
    path = folder / name
    left, seen = draw.randint(1, most), changed(path)
    while run.poll() is None:
        if (now := changed(path)) != seen:
            left, seen = left - 1, now
            if not left:
                time.sleep(draw.uniform(0, longest))
                run.kill()
                run.wait()
                return f"{AIMED}{name}"
        time.sleep(0.0002)
    return ""


def changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def disturbed(
    folder: Path, ranks: int, kills: int, draw: random.Random, aimed: int = 0
) -> tuple[Counter[tuple[str, str]], bool]:
    """Run to the end, killed up to ``kills`` times, ``aimed`` of them at DVC's own writes.

    Returns how often which stage lost what, and whether it ended.
    """
    done: Counter[tuple[str, str]] = Counter()
    last_kill = ""
    while True:
        run = repro(folder, ranks)
        last = done.total() >= kills
        still = aimed - aimed_kills(done)
        if not last and draw.random() < still / (kills - done.total()):
            what = aim(folder, run, draw)
            if what:
                last_kill = what
                done["dvc", what] += 1
        try:
            run.wait(None if last else draw.uniform(1.0, LONGEST_SECONDS))
        except subprocess.TimeoutExpired:
            stages = begun_in(folder)
            try:
                what = kill(run, draw)
            except psutil.NoSuchProcess:
                what = ""
            if what:
                last_kill = what
                done[stages[-1] if stages else "start", what] += 1
            try:
                run.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                if what and (what != "worker" or begun_in(folder) == stages):
                    tree = [words_of(process) for process in present(folder)]
                    print((folder / "log.txt").read_text()[-3000:], tree)
                    raise SystemExit(f"still running {SECONDS_TO_END} s after {what} was killed") from None
                kill_all(run)  # nobody was hit, or a worker that had done its part: the run went on well
                run.wait()
        else:
            if run.returncode == 0:
                return done, True
            if run.returncode > 0:  # by itself: a hand would be needed
                return done, False
        deadline = time.monotonic() + SECONDS_TO_GO
        while left := present(folder):
            if time.monotonic() > deadline:
                rest = [(process.status(), words_of(process)) for process in left]
                raise SystemExit(f"still there {SECONDS_TO_GO:g} s after {last_kill} was killed: {rest}")
            time.sleep(0.1)


def aimed_kills(done: Counter[tuple[str, str]]) -> int:
    return sum(number for (_, what), number in done.items() if what.startswith(AIMED))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.stages.survive_kills", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--kills", type=int, default=50, help="in all, over all rank counts (default: %(default)s)")
    parser.add_argument("--aimed", type=int, default=0, help="of these, at DVC's own writes (default: %(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="processes a stage (default: 1 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and victims (default: %(default)s)")
    args = parser.parse_args(argv)
    draw = random.Random(args.seed)
    good = True
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as scratch:
            base = prepare(Path(scratch).resolve() / "undisturbed")
            begun = time.monotonic()
            if repro(base, ranks).wait() != 0:
                raise SystemExit((base / "log.txt").read_text()[-3000:])
            expected = result(base)
            print(f"{ranks} ranks: undisturbed {time.monotonic() - begun:.0f} s, {len(expected)} files", flush=True)
            left, aimed, rounds = args.kills // len(args.ranks), args.aimed // len(args.ranks), 0
            total: Counter[tuple[str, str]] = Counter()
            while left > 0:
                rounds += 1
                folder = prepare(Path(scratch).resolve() / f"round{rounds}")
                kills, ended = disturbed(folder, ranks, left, draw, aimed)
                left -= kills.total()
                aimed -= aimed_kills(kills)
                total += kills
                found = result(folder)
                wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
                good = good and ended and not wrong
                verdict = "the same bytes" if ended and not wrong else f"DIFFERENT: ended {ended}, {wrong[:5]}"
                log = (folder / "log.txt").read_text()
                mended = len(re.findall("^pirl: repro: .* broken", log, re.MULTILINE))
                told = f"{kills.total()} kills, {aimed_kills(kills)} aimed"
                told += f", {log.count('] resumed at')} resumed, {mended} mended"
                print(f"{ranks} ranks, round {rounds}: {told}: {verdict}", flush=True)
                if ended and not wrong:
                    shutil.rmtree(folder)
                else:
                    print((folder / "log.txt").read_text()[-3000:])
                    return 1
            for axis, name in ((0, "stage"), (1, "killed")):
                counts: Counter[str] = Counter()
                for key, number in total.items():
                    counts[key[axis]] += number
                print(f"{ranks} ranks, by {name}: {', '.join(f'{k} {v}' for k, v in counts.most_common())}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
