"""``python guard.py GRACE COMMAND...``: run a command; end it with all it started when standard input closes.

The caller holds the only write end of that input, so its death, by SIGKILL too, closes it. A signal does the same.
GRACE: seconds between asking and SIGKILL.
Imports little: one of these starts with each stage.
"""

import contextlib
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
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(grace: float, command: list[str]) -> int:
    """Exit code of the command, or 128 + the signal that ended it."""
    told, tell = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    # A handler, even an idle one, also gives the command back the default action: a shell's `&` has SIGINT ignored.
    for number in (*ENDING, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    adopt_orphans()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    while child.returncode is None:
        ready, _, _ = select.select([0, told], [], [])
        reap(child)
        if 0 in ready or (told in ready and set(os.read(told, 512)) & set(ENDING)):
            stop(child, grace)
            break
    end(child, lambda process: process.kill())
    code = child.wait()
    return code if code >= 0 else 128 - code


def reap(child: "subprocess.Popen[bytes]") -> None:
    """Take the exit codes of all that has ended, adopted orphans too: zombies would pass for alive by their number."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child.pid:
                child.returncode = os.waitstatus_to_exitcode(ended[1])


def adopt_orphans() -> None:
    """Processes whose parent dies become children of this one, so that none is lost from sight."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def stop(child: "subprocess.Popen[bytes]", grace: float) -> None:
    """Ask all to end, and wait a little. ``child`` is DVC: SIGTERM would stop it from giving its locks back."""
    told: set[int] = set()

    def ask(process: psutil.Process) -> None:
        if process.pid not in told:
            told.add(process.pid)
            process.send_signal(signal.SIGINT if process.pid == child.pid else signal.SIGTERM)

    end(child, ask, time.monotonic() + grace)


def end(
    child: "subprocess.Popen[bytes]", action: Callable[[psutil.Process], None], deadline: float = float("inf")
) -> None:
    """Apply ``action`` to every process below, newly born ones too, until none is left."""
    while (alive := below()) and time.monotonic() < deadline:
        for process in alive:
            try:
                action(process)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.05)
        reap(child)
    reap(child)


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
