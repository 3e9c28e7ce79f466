"""``python guard.py GRACE COMMAND...``: run a command; end it with all it started when standard input closes.

The caller holds the only write end of that input, so its death, by SIGKILL too, closes it. A signal does the same.
GRACE: seconds between asking and SIGKILL.
Imports little: one of these starts with each stage.
"""

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import psutil

_PR_SET_CHILD_SUBREAPER = 36


def main(grace: float, command: list[str]) -> int:
    """Exit code of the command, or 128 + the signal that ended it."""
    told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(tell)
    # A handler, even an idle one, also gives the command back the default action: a shell's `&` has SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    adopt_orphans()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    exited = os.pidfd_open(child.pid)
    ready, _, _ = select.select([0, told, exited], [], [])
    if exited not in ready:
        stop(child.pid, grace)
    end(lambda process: process.kill())
    code = child.wait()
    return code if code >= 0 else 128 - code


def adopt_orphans() -> None:
    """Processes whose parent dies become children of this one, so that none is lost from sight."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop(direct: int, grace: float) -> None:
    """Ask all to end, and wait a little. ``direct`` is DVC: SIGTERM would stop it from giving its locks back."""
    told: set[int] = set()

    def ask(process: psutil.Process) -> None:
        if process.pid not in told:
            told.add(process.pid)
            process.send_signal(signal.SIGINT if process.pid == direct else signal.SIGTERM)

    end(ask, time.monotonic() + grace)


def end(action: Callable[[psutil.Process], None], deadline: float = float("inf")) -> None:
    """Apply ``action`` to every process below, newly born ones too, until none is left."""
    while (alive := below()) and time.monotonic() < deadline:
        for process in alive:
            try:
                action(process)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)


def below() -> list[psutil.Process]:
    """All running descendants of this process, in whatever session."""
    alive = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
        except psutil.NoSuchProcess:
            continue
    return alive


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
