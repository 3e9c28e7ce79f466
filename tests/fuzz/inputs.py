"""Spoils every input, one at a time, and reads it through the real entry points.

python -m tests.fuzz.inputs --cases 2000 --seed 0

A case draws a file (or an argument, or an environment variable) and a way to spoil it, then calls what reads it. It
must be taken, or refused with exit code 2 and one line, all outputs as they were: no traceback, nothing that takes more
than ten seconds of computing, no memory without bound. `--only 17` repeats one case of the same seed
and shows what was said.
"""

import argparse
import contextlib
import faulthandler
import io
import os
import random
import re
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

from tests import ROOT

SECONDS = 10
WAITING = 4
"""Times as long by the clock, since others may be at work on this machine."""
MEMORY = 8 * 2**30
AS_PROCESS = 100
"""One case in so many runs as a process of its own, where there is a command for it."""
REPEATABLE = {"OMP_NUM_THREADS": "1", "PIRL_THREADS": "1", "PIRL_WORKERS": "1", "HF_HUB_OFFLINE": "1"}
WORDS = [
    "", " ", "x", "sft", "flow_sde", "metaworld", "metaworld-flow_sde-0", "0", "-1", "7", "1e9", "99999999999999999999",
    "nan", "inf", "'", "\"", "../..", "/dev/zero", "/", "é", "\udc80", "a\nb", "x" * 5000, "params.yaml", "absent.yaml",
    "outputs", "--", "{}", "%s", "a=b", "=", "rl.actor_lr=1e-5", "rl=!!set {a}", "scale=x", "rl.gamma.x=1", "²", "٣",
]  # fmt: skip


class Hang(BaseException):
    """A case took too long."""


class Started(Exception):  # noqa: N818 - no error
    """The input was taken, and simulators would start."""


Entry = Callable[[], Any]


class Target(NamedTuple):
    """Files of one kind, and what reads them. commands: the same, as processes."""

    weight: int
    files: list[str]
    entries: list[Entry]
    commands: list[list[str]]


class Outcome(NamedTuple):
    """verdict: taken, refused, or what is wrong."""

    verdict: str
    said: str


def run(entry: Entry, seconds: float = SECONDS) -> Outcome:
    """What comes of one call; its output goes to files, whoever writes it."""
    with tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
        with _streams(out, err), _limits(seconds):
            verdict = _call(entry)
        err.seek(0)
        said = err.read().decode(errors="replace")
    if verdict in ("2", "usage"):
        one_line = re.fullmatch(r"pirl: [^\n]+\n", said) or (verdict == "usage" and "error: " in said)
        verdict = "refused" if one_line else "MORE THAN A LINE"
    return Outcome(verdict, said)


def _call(entry: Entry) -> str:
    from pirl_core.errors import UserError

    try:
        code = entry()
    except Started:
        return "taken"
    except UserError as error:
        print(f"pirl: {error}", file=sys.stderr)
        return "2"
    except SystemExit as error:
        return "usage" if error.code == 2 else "taken" if not error.code else f"EXIT {error.code}"
    except Hang:
        traceback.print_exc()
        return "HANG"
    except BaseException as error:
        traceback.print_exc()
        return type(error).__name__.upper()
    return "taken" if not isinstance(code, int) or code == 0 else "2" if code == 2 else f"CODE {code}"


@contextlib.contextmanager
def _streams(out: Any, err: Any) -> Iterator[None]:
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush(), sys.stderr.flush()
    os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
    # Both: what is printed by Python, which pytest sends elsewhere, and what is written to the descriptors.
    spoken = [io.TextIOWrapper(file, "utf-8", errors="replace", write_through=True) for file in (out, err)]
    try:
        with contextlib.redirect_stdout(spoken[0]), contextlib.redirect_stderr(spoken[1]):
            yield
    finally:
        for wrapper in spoken:
            wrapper.detach()
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)


@contextlib.contextmanager
def _limits(seconds: float) -> Iterator[None]:
    begun, computed = time.monotonic(), time.process_time()

    def ring(*_: object) -> None:
        if time.process_time() - computed > seconds or time.monotonic() - begun > WAITING * seconds:
            raise Hang

    variables = dict(os.environ)
    before = signal.signal(signal.SIGALRM, ring)
    faulthandler.dump_traceback_later(2 * WAITING * seconds, exit=True)  # stuck in C code, where no handler runs
    signal.setitimer(signal.ITIMER_REAL, 1, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)
        os.environ.clear()
        os.environ.update(variables)


def run_command(words: list[str]) -> Outcome:
    """As ``run``, in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    try:
        done = subprocess.run(
            [sys.executable, "-m", *words], env=environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=120
        )
    except subprocess.TimeoutExpired:
        return Outcome("HANG", "")
    said = done.stderr.decode(errors="replace")
    refused = done.returncode == 2 and re.fullmatch(r"pirl: [^\n]+\n", said)
    return Outcome("refused" if refused else "taken" if done.returncode == 0 else f"CODE {done.returncode}", said)


def look(folder: Path) -> dict[str, tuple[int, ...]]:
    """What would change where something is written. Locks and the state of running stages lie in .pirl."""
    found: dict[str, tuple[int, ...]] = {}
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != ".pirl"]
        for path in (Path(here) / name for name in (*folders, *files)):
            told = path.lstat()
            content = () if stat.S_ISDIR(told.st_mode) else (told.st_size, told.st_mtime_ns, told.st_ino)
            found[str(path)] = (told.st_mode, *content)
    return found


def arguments(draw: random.Random) -> tuple[str, Entry]:
    """A command line of words that do not fit."""
    from tests.fuzz.workspace import MAINS

    name = draw.choice(list(MAINS))
    main, options = MAINS[name]
    words = [draw.choice(WORDS) for _ in range(draw.choice([0, 1, 1, 2]))]
    for option in options:
        if draw.random() < 0.8:
            words += [option[0], draw.choice([option[1], option[1], draw.choice(WORDS)])]
    return f"{name} {words!r:.120}", lambda: main(words)


def variables(draw: random.Random, entries: list[Entry]) -> tuple[str, Entry]:
    """A stage under a strange environment."""
    names = ["PIRL_THREADS", "PIRL_WORKERS", "PIRL_PROCESSES", "PIRL_SHARDING", "PIRL_LAUNCH", "PIRL_FRESH",
             "PIRL_LIBERO_ASSETS", "XDG_CACHE_HOME", "HF_HOME", "ACCELERATE_USE_FSDP", "OMP_NUM_THREADS"]  # fmt: skip
    name, value, entry = draw.choice(names), draw.choice(WORDS).replace("\x00", ""), draw.choice(entries)

    def call() -> Any:
        os.environ[name] = value
        return entry()

    return f"{name}={value!r:.60}", call


def fuzz(cases: int, seed: int, only: int | None = None) -> tuple[Counter[tuple[str, str]], list[str]]:
    """Returns how often each kind of input met each verdict, and a text for every case that went wrong."""
    from tests.fuzz.mutations import mutate
    from tests.fuzz.workspace import make_targets, make_template

    counts: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as scratch, contextlib.chdir(scratch), _patched():
        template, here = Path(scratch).resolve() / "template", Path(scratch).resolve() / "here"
        with contextlib.chdir(_empty(template)):
            made = run(make_template, 60)
        assert made.verdict == "taken", made
        targets = make_targets()
        shutil.copytree(template, here, symlinks=True)
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, most))
        for number in range(cases) if only is None else [only]:
            draw = random.Random(f"{seed} {number}")
            kind = draw.choices(list(targets), [target.weight for target in targets.values()])[0]
            target = targets[kind]
            words: list[str] = []
            with contextlib.chdir(here):
                if kind == "arguments":
                    how, entry = arguments(draw)
                elif kind == "variables":
                    how, entry = variables(draw, target.entries)
                else:
                    how = mutate(Path(draw.choice(sorted(str(p) for f in target.files for p in Path().glob(f)))), draw)
                    entry = draw.choice(target.entries)
                    words = draw.choice(target.commands) if target.commands and number % AS_PROCESS == 0 else []
                before = look(here)
                outcome = run_command(words) if words else run(entry)
                if outcome.verdict == "refused" and look(here) != before:
                    changed = {path for path, _ in before.items() ^ look(here).items()}
                    outcome = Outcome("OUTPUTS CHANGED", f"{sorted(changed)[:5]}\n{outcome.said}")
            counts[kind, outcome.verdict] += 1
            if only is not None:
                print(kind, how, outcome.verdict, outcome.said, sep="\n", flush=True)
            if outcome.verdict not in ("taken", "refused"):
                wrong.append(f"case {number}, {kind}: {how}: {outcome.verdict}\n{outcome.said[-1500:]}")
            # Simply anew: what a case leaves behind, a FIFO or a checkpoint, shall not meet the next one.
            shutil.rmtree(here)
            shutil.copytree(template, here, symlinks=True)
    return counts, wrong


@contextlib.contextmanager
def _patched() -> Iterator[None]:
    """No simulator, no ranks, no network, and the same threads everywhere."""

    def start(*_: object, **__: object) -> None:
        raise Started

    import pirl_core.data.curate
    import pirl_core.envs.vector.slots
    import pirl_core.training.resume
    from pirl_core.stages import launch

    with (
        mock.patch.dict(os.environ, REPEATABLE),
        mock.patch.object(pirl_core.envs.vector.slots, "VectorEnv", start),
        mock.patch.object(pirl_core.data.curate, "demonstrations", start),
        mock.patch.object(launch, "launch", start),
        mock.patch.object(pirl_core.training.resume, "forget"),  # the checkpoints of finished runs are an input too
        contextlib.ExitStack() as stack,
    ):
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        stack.callback(lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)))
        yield


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def told(counts: Counter[tuple[str, str]]) -> str:
    """A line for each kind of input."""
    kinds = sorted({kind for kind, _ in counts})
    lines = []
    for kind in kinds:
        verdicts = Counter({verdict: n for (k, verdict), n in counts.items() if k == kind})
        lines.append(f"{kind:<12} {verdicts.total():5}  " + ", ".join(f"{v} {n}" for v, n in verdicts.most_common()))
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.inputs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cases", type=int, default=2000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: %(default)s)")
    parser.add_argument("--only", type=int, help="the one case of this number")
    args = parser.parse_args(argv)
    counts, wrong = fuzz(args.cases, args.seed, args.only)
    print(told(counts))
    for text in wrong:
        print(f"\n{text}")
    print(f"\n{counts.total()} cases, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
