"""The command line that the stages share: arguments, one-line errors, and the record of the run.

A stage module is ``def run(job: Job) -> None`` and, under ``if __name__ == "__main__"``, ``stage_main("rl", run)``.
It imports torch and simulators inside ``run``: the number of threads has to be in the environment before they load.
"""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from pirl_core.errors import UserError
from pirl_core.files import write_json
from pirl_core.params import Experiment, Params, Run, load_params, resolve
from pirl_core.stages.record import MemoryWatch, machine, revision, versions

# What each stage is asked for, and the sections of params.yaml that it may read: dvc.yaml lists the same ones.
NEEDS: dict[str, tuple[str, ...]] = {
    "curate": ("experiment",),
    "sft": ("experiment", "seed"),
    "rl": ("experiment", "method", "seed"),
    "evaluate": ("experiment", "method", "seed"),
    "report": (),
}
READS: dict[str, tuple[str, ...]] = {
    "curate": ("env", "curate"),
    "sft": ("env", "policy", "sft"),
    "rl": ("env", "rl"),
    "evaluate": ("env", "evaluate"),
    "report": ("report", "evaluate"),
}


class Job(NamedTuple):
    """What a stage is asked to do.

    name: ``E``, ``E-S`` or ``E-M-S``; names the output folders. method: for evaluate also 'sft', the policy before RL.
    entry: the experiment's labels. run: the sections, overrides merged; one that is not in the stage's READS raises.
    """

    stage: str
    name: str
    experiment: str
    method: str
    seed: int
    entry: Experiment
    run: Run


def stage_main(stage: str, run: Callable[[Job], None], argv: Sequence[str] | None = None) -> int:
    """Parse, check, run, record. Returns the exit code: 0; 2 for bad input, told in one line; 130 or 143 when stopped.

    After success ``outputs/run/<stage>/<name>.json`` holds time, memory, machine, versions, revision and parameters.
    """
    begun = time.monotonic()
    args = _parser(stage).parse_args(argv)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        threads = _set_threads()
        params = load_params(args.params)
        job = _job(stage, params, args)
        with MemoryWatch() as memory:
            run(job)
        _record(job, threads, time.monotonic() - begun, memory.peak_mib)
    except UserError as error:
        print(f"pirl: {stage}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pirl: {stage}: stopped; unfinished outputs were removed", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def report_main(run: Callable[[Params], None], argv: Sequence[str] | None = None) -> int:
    """``stage_main`` for the stage that looks at all experiments, and that keeps no record of itself."""
    args = _parser("report").parse_args(argv)
    try:
        _set_threads()
        run(load_params(args.params))
    except UserError as error:
        print(f"pirl: report: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(stage: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m pirl_core.stages.{stage}", description=f"Stage {stage} of dvc.yaml."
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)"
    )
    if "experiment" in NEEDS[stage]:
        parser.add_argument("--experiment", required=True, help="an entry of 'experiments' in the parameter file")
    if "method" in NEEDS[stage]:
        sft = ", or sft for the policy before RL" if stage == "evaluate" else ""
        parser.add_argument("--method", required=True, help=f"an entry of 'methods' in the parameter file{sft}")
    if "seed" in NEEDS[stage]:
        parser.add_argument(
            "--seed", required=True, type=int, help="training seed, one of 'seeds' in the parameter file"
        )
    return parser


def _job(stage: str, params: Params, args: argparse.Namespace) -> Job:
    method = getattr(args, "method", "")
    before_rl = stage == "evaluate" and method == "sft"
    full = resolve(params, args.experiment, None if before_rl or not method else method)
    seed = getattr(args, "seed", 0)
    if "seed" in NEEDS[stage] and seed not in params.seeds:
        raise UserError(f"--seed {seed} is not in 'seeds' {params.seeds} of {args.params}; add it there")
    parts = [args.experiment, *([method] if method else []), *([str(seed)] if "seed" in NEEDS[stage] else [])]
    read: Any = [getattr(full, s) if s in READS[stage] else _Unlisted(stage, s) for s in Run._fields]
    return Job(stage, "-".join(parts), args.experiment, method, seed, params.experiments[args.experiment], Run(*read))


class _Unlisted:
    """Stands for a section that the stage does not declare: DVC would not see it change."""

    def __init__(self, stage: str, section: str) -> None:
        self._message = f"stage {stage} reads section {section}: add it to READS in stages/cli.py and to dvc.yaml"

    def __getattr__(self, name: str) -> object:
        raise AssertionError(self._message)


def _record(job: Job, threads: int, seconds: float, peak_mib: int) -> None:
    write_json(
        Path("outputs/run") / job.stage / f"{job.name}.json",
        {
            "stage": job.stage,
            "name": job.name,
            "wall_seconds": round(seconds, 2),
            "peak_memory_mib": peak_mib,
            "machine": {**machine(), "threads": threads},
            "python": sys.version.split()[0],
            "versions": versions(),
            "revision": revision(),
            "seeds": {"training": job.seed} if "seed" in NEEDS[job.stage] else {},
            "params": {section: getattr(job.run, section).model_dump() for section in READS[job.stage]},
        },
    )


def _set_threads() -> int:
    """PIRL_THREADS, else every core this process may use; libraries read these variables when they load."""
    wish = os.environ.get("PIRL_THREADS", str(len(os.sched_getaffinity(0))))
    if not wish.isascii() or not wish.isdigit() or int(wish) < 1:
        raise UserError(f"PIRL_THREADS = {wish!r}: must be a whole number of at least 1")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = wish
    return int(wish)


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM leaves through the same ``finally`` blocks as Ctrl-C, with its own exit code."""
    raise SystemExit(128 + number)
