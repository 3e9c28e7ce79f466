"""The command line that the stages share: arguments, one-line errors, ranks, and the record of the run.

A stage module is ``def run(job: Job) -> None`` and, under ``if __name__ == "__main__"``, ``stage_main("rl", run)``.
It imports torch and simulators inside ``run``: the number of threads has to be in the environment before they load.
"""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from pirl_core import console
from pirl_core.errors import UserError, WorkerDied, told
from pirl_core.files import write_json
from pirl_core.params.file import load_params, resolve
from pirl_core.params.sections import Params
from pirl_core.provenance.machine import MemoryWatch, machine
from pirl_core.provenance.revision import Revision, revision
from pirl_core.readers import variables
from pirl_core.stages import launch
from pirl_core.stages.alive import LAUNCHER, mortal
from pirl_core.stages.job import AGAIN, NEEDS, Job, look, read_job, require_same, require_same_source
from pirl_core.stages.lock import exclusive
from pirl_core.stages.mend import keep_record
from pirl_core.training import resume


def stage_main(stage: str, run: Callable[[Job], None], argv: Sequence[str] | None = None) -> int:
    """Parse, check, run, record. Returns the exit code.

    0; 2 for bad input or a guard's stop, told in one line; 130 or 143 when interrupted; 1 when a rank was lost. After
    success ``outputs/run/<stage>/<name>.json`` holds time, memory, machine, versions, revision, code and parameters.
    """
    begun = time.monotonic()
    console.speak()
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(stage).parse_args(words)
    is_rank = "RANK" in os.environ
    # Who keeps the record: the launcher of the ranks, and where it is none of ours the first of them.
    in_charge = not is_rank or (LAUNCHER not in os.environ and os.environ["RANK"] == "0")
    try:
        with mortal():
            processes = launch.process_count(stage)
            threads, fresh = set_threads(), variables.flag(variables.FRESH)
            variables.cluster()
            sharding = launch.choose_sharding()
            job, at = read_job(stage, args), revision()
            if not in_charge:
                _run(run, job)
                return 0
            command = os.environ.get(launch.COMMAND, "")
            if command and stage in launch.PARALLEL and not is_rank:
                return launch.launch_by(command, stage, words)
            if "DVC_STAGE" in os.environ:
                keep_record(Path())
            with exclusive(stage, job.name):
                if fresh:
                    resume.forget(stage, job.name)
                with MemoryWatch() as memory:
                    if processes > 1:
                        code = launch.launch(stage, launch.stage_words(stage, words), processes)
                        if code:
                            return code
                    else:
                        _run(run, job)
                if is_rank:
                    processes = int(os.environ["WORLD_SIZE"])
                require_same(job, args)
                _record(job, at, threads, processes, sharding, time.monotonic() - begun, memory.peak_mib)
                resume.forget(stage, job.name)
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return _say(stage, said, 2)
    except WorkerDied as error:
        return _say(stage, f"{error}; a rerun goes on from the last checkpoint", 1)
    except RuntimeError as error:
        if is_rank and _lost_peer(error):
            # The launcher shall see the rank that failed first, and will end this one.
            time.sleep(1)
            if LAUNCHER not in os.environ:
                lost = f"rank {os.environ['RANK']} lost another one; a rerun of all goes on from the last checkpoint"
                _say(stage, lost, launch.LOST_PEER)
            return launch.LOST_PEER
        raise
    except KeyboardInterrupt:
        return _say(stage, "stopped; unfinished outputs were removed, a rerun goes on from the last checkpoint", 130)
    return 0


def report_main(run: Callable[[Params], None], argv: Sequence[str] | None = None) -> int:
    """``stage_main`` for the stage that looks at all experiments, and that keeps no record of itself."""
    console.speak()
    args = _parser("report").parse_args(argv)
    try:
        with mortal():
            set_threads()
            params = load_params(args.params)
            source = look("report", [resolve(params, experiment) for experiment in params.experiments])
            with exclusive("report", "all"):
                run(params)
                if load_params(args.params).model_copy(update={"run": params.run}) != params:
                    raise UserError(f"{args.params} changed while this ran: nothing is recorded; {AGAIN}")
                require_same_source(source, "report")
    except (UserError, OSError) as error:
        if (said := told(error)) is None:
            raise
        return _say("report", said, 2)
    except KeyboardInterrupt:
        return 130
    return 0


def _run(run: Callable[[Job], None], job: Job) -> None:
    run(job)
    if "RANK" in os.environ:
        from pirl_core.training import ranks

        ranks.leave()


def _say(stage: str, message: str, code: int) -> int:
    """One line on stderr; a rank leaves it to its launcher, which prints that of the first to fail."""
    line = f"pirl: {stage}: {' '.join(message.split())}"
    if LAUNCHER in os.environ:
        write_json(Path(os.environ["TORCHELASTIC_ERROR_FILE"]), {"message": line, "timestamp": int(time.time())})
    else:
        print(line, file=sys.stderr)
    return code


def _lost_peer(error: RuntimeError) -> bool:
    return re.search(r"gloo|NCCL|Connection (closed|reset)|TCPStore|Broken pipe", str(error)) is not None


def _parser(stage: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"python -m pirl_core.stages.{stage}", description=f"Stage {stage} of dvc.yaml."
    )
    parser.add_argument(
        "--params", type=Path, default=Path("params.yaml"), help="parameter file (default: %(default)s)"
    )
    entry = f"an entry of '{'risk.' if stage == 'risk' else ''}{{}}' in the parameter file"
    if "experiment" in NEEDS[stage]:
        parser.add_argument("--experiment", required=True, help=entry.format("experiments"))
    if "method" in NEEDS[stage]:
        sft = ", or sft for the policy before RL" if stage == "evaluate" else ""
        parser.add_argument("--method", required=True, help=entry.format("methods") + sft)
    if "seed" in NEEDS[stage]:
        parser.add_argument(
            "--seed", required=True, type=int, help="training seed, one of 'seeds' in the parameter file"
        )
    return parser


def _record(job: Job, at: Revision, threads: int, processes: int, sharding: str, seconds: float, peak_mib: int) -> None:
    write_json(
        Path("outputs/run") / job.stage / f"{job.name}.json",
        {
            "stage": job.stage,
            "name": job.name,
            "wall_seconds": round(seconds, 2),
            "peak_memory_mib": peak_mib,
            "machine": {**machine(), "threads": threads, "processes": processes, "sharding": sharding},
            "python": sys.version.split()[0],
            "versions": job.versions(),
            "revision": at.commit,
            "edits": at.edits,
            "code": {"digest": job.source.code.digest, "parts": job.source.parts, "inputs": job.source.inputs},
            "seeds": {"training": job.seed} if "seed" in NEEDS[job.stage] else {},
            "params": job.parameters(),
        },
    )


WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "2000"}
"""How torch's threads wait for one another: they spin for some microseconds, since small operations follow one another
faster than a thread wakes up, then sleep, so as not to take the cores from simulators and other stages."""


def set_threads() -> int:
    """PIRL_THREADS, else every core this process may use; libraries read these variables when they load.

    The ranks of one machine share threads and simulator processes.
    """
    cores = len(os.sched_getaffinity(0))
    threads = variables.whole(variables.THREADS) or cores
    workers = variables.whole(variables.WORKERS) or cores
    ranks = variables.whole("LOCAL_WORLD_SIZE") or 1
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(max(1, threads // ranks))
    for name, value in WAITING.items():
        os.environ.setdefault(name, value)
    if ranks > 1:
        os.environ[variables.WORKERS] = str(max(1, workers // ranks))
    return threads
