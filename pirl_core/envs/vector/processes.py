"""Worker processes of this machine, and what a worker is to ``slots``, wherever it runs.

What a worker is asked it answers with ``("ok", payload)``, or with ``("user_error", text)`` or ``("error", text)``.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from pirl_core.errors import UserError
from pirl_core.readers import variables

WORKER_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "LP_NUM_THREADS": "0",
    # Where glibc raises this by itself, after the first freed simulator of 20 MB, the heap grows twice as large and has
    # holes.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
GRACE_SECONDS = 5.0


class Worker(NamedTuple):
    """name: in messages. pipe: takes messages of ``worker``. process: None where it is another machine's."""

    name: str
    pipe: Connection
    process: subprocess.Popen[bytes] | None


def worker_count(num_envs: int) -> int:
    """PIRL_WORKERS, or the processor count, at most one per slot. Raises UserError unless it is a positive integer."""
    return min(num_envs, variables.whole(variables.WORKERS) or len(os.sched_getaffinity(0)))


def start(number: int) -> Worker:
    """A worker process; it ends when its pipe is closed."""
    process, pipe = start_python("from pirl_core.envs.vector.worker import main; main()", WORKER_ENVIRONMENT)
    return Worker(f"environment worker {number}", pipe, process)


def start_python(
    line: str, environment: dict[str, str], quiet: bool = False
) -> tuple[subprocess.Popen[bytes], Connection]:
    """A process that runs a line of Python, and a pipe to it, of which it gets the descriptor as its argument.

    quiet: what it prints is thrown away.
    """
    # Not multiprocessing.Process: its children import the parent's main module, and torch with it.
    parent, child = Pipe()
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    # Ctrl-C reaches the whole process group, but only this process shall answer it: children inherit the mask, and end
    # when the pipe closes.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", line, str(child.fileno())],
            pass_fds=[child.fileno()],
            env={**os.environ, **environment, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    child.close()
    return process, parent


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process whose pipe is closed, and not for long."""
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ending(process: "subprocess.Popen[bytes]") -> str:
    """Of one that is gone, or about to go: how it went."""
    code = process.wait()
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"


def be_child(serve: Callable[[Connection], None]) -> None:
    """What the line of ``start_python`` calls: serves its pipe, then ends."""
    with Connection(int(sys.argv[1])) as pipe:
        serve(pipe)
    # OpenGL drivers print errors when Python tears them down in arbitrary order.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def answered(ask: Callable[[], Any]) -> tuple[str, Any]:
    """The worker's side: what comes of it, or why nothing does."""
    try:
        return "ok", ask()
    except UserError as error:
        return "user_error", str(error)
    except Exception:
        return "error", traceback.format_exc()


def read_answer(name: str, reply: tuple[str, Any]) -> Any:
    """The other side. Raises UserError as the worker did, RuntimeError with its traceback for anything else."""
    status, answer = reply
    if status == "user_error":
        raise UserError(answer)
    if status == "error":
        raise RuntimeError(f"{name} failed:\n{answer}")
    return answer
