"""A stage ends when it is told to, and when whoever started it is gone; nothing of it stays behind."""

import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

LAUNCHER = "_PIRL_LAUNCHER"
"""Environment variable: process id of the launcher, set for its ranks."""
_GRACE_SECONDS = 3.0
# A launcher's ranks have four seconds to end (stages/launch.py), and then it has a line to say.
_LAUNCHER_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.5


@contextmanager
def mortal() -> Iterator[None]:
    """SIGTERM leaves through ``finally`` blocks, as Ctrl-C does; a process stuck in C code is ended after a grace time.

    So does the end of the processes above: the launcher of a rank; DVC, and the shell between, for a stage under DVC.
    """
    above = processes_above()
    previous = signal.signal(signal.SIGTERM, _terminate)
    # Python runs signal handlers in the main thread, which may be waiting for another rank: a thread reads along.
    told, tell = socket.socketpair()
    tell.setblocking(False)
    wakeup = signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(told, above), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGTERM, previous)
        tell.close()


def processes_above() -> list[psutil.Process]:
    """The processes that this one shall not outlive. Ends this one where they are gone already."""
    chain: list[psutil.Process] = []
    try:
        if LAUNCHER in os.environ:
            return [psutil.Process(int(os.environ[LAUNCHER]))]
        # srun starts a stage where no DVC runs, and ends it itself.
        if "DVC_STAGE" not in os.environ or "SLURM_STEP_ID" in os.environ:
            return []
        for process in psutil.Process().parents():
            chain.append(process)
            if runs_dvc(process):
                return chain
    except psutil.NoSuchProcess:
        pass
    raise SystemExit(128 + signal.SIGTERM)


def runs_dvc(process: psutil.Process) -> bool:
    """Whether it is DVC's own command, or ours that stands for it. Raises psutil.Error where that cannot be seen."""
    return not {"dvc", "pirl_core.commands.dvc"}.isdisjoint(os.path.basename(word) for word in process.cmdline()[:3])


def _watch(told: socket.socket, above: list[psutil.Process]) -> None:
    """Ends this process for good, some time after a signal that should have."""
    while True:
        ready, _, _ = select.select([told], [], [], _POLL_SECONDS)
        received = told.recv(64) if ready else b""
        if ready and not received:
            return
        ending = next((number for number in received if number in (signal.SIGTERM, signal.SIGINT)), None)
        if ending is None and any(_ended(process) for process in above):
            ending = signal.SIGTERM
            os.kill(os.getpid(), ending)
        if ending is not None:
            launches = os.environ.get(LAUNCHER) == str(os.getpid())
            time.sleep(_LAUNCHER_GRACE_SECONDS if launches else _GRACE_SECONDS)
            os._exit(128 + ending)


def _ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
