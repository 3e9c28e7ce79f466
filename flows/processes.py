"""Commands that end when the flow does, however it ends."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

GUARD = Path(__file__).with_name("guard.py")
_PATIENCE_SECONDS = 5.0
_GRACE_SECONDS = 3.0


class StoppedError(Exception):
    """The commands of this flow were ended; no new one starts."""


class Guards:
    """The running commands of one flow, each below a guard process that ends it when this process is gone."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: set[subprocess.Popen[bytes]] = set()
        self.closed = False

    def run(self, command: list[str], folder: Path, environment: dict[str, str], tell: Callable[[str], None]) -> int:
        """Run to the end; ``tell`` gets each line of its output at once. Returns the exit code. Raises StoppedError."""
        process = self.start(command, folder, environment, subprocess.PIPE)
        try:
            _read_lines(process, tell)
            code = process.wait()
            if code < 0:
                self._sweep(process)
        finally:
            self._end(process)
        if self.closed:
            raise StoppedError
        return code

    def start(
        self,
        command: list[str],
        folder: Path,
        environment: dict[str, str],
        output: int | IO[bytes] | None,
        grace: float = _GRACE_SECONDS,
    ) -> subprocess.Popen[bytes]:
        """Start and return at once; standard output and error go to ``output``, None: where this process's go.

        grace: seconds to end in an orderly way when it is told to.
        """
        with self._lock:
            if self.closed:
                raise StoppedError
            process = subprocess.Popen(
                [sys.executable, str(GUARD), str(grace), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                # Ctrl-C in the terminal is the flow's to handle, once.
                start_new_session=True,
            )
            self._live.add(process)
        return process

    def end_all(self) -> None:
        """End every command and what it started, and wait for that. May be called again, and from any thread."""
        with self._lock:
            self.closed = True
            live = list(self._live)
        for process in live:
            _close(process)
        for process in live:
            self._end(process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        _close(process)
        try:
            process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._sweep(process)
        with self._lock:
            self._live.discard(process)

    def _sweep(self, process: subprocess.Popen[bytes]) -> None:
        """The guard itself was killed or hangs: end its session. Ranks, in sessions of their own, then see to it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def _close(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()


def _read_lines(process: subprocess.Popen[bytes], tell: Callable[[str], None]) -> None:
    """Until the output closes or the guard is gone: an orphan of a killed guard may hold the pipe open."""
    assert process.stdout is not None
    rest = b""
    while True:
        ready, _, _ = select.select([process.stdout], [], [], 0.5)
        if not ready:
            if process.poll() is not None:
                break
            continue
        chunk = os.read(process.stdout.fileno(), 1 << 16)
        if not chunk:
            break
        *lines, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            tell(line.decode(errors="replace"))
    if rest:
        tell(rest.decode(errors="replace"))
    process.stdout.close()
