"""One process at a time: two would write the same outputs and checkpoints."""

import fcntl
import math
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pirl_core.errors import UserError
from pirl_core.files import naming

LOCKS = Path(".pirl/lock")
PIPELINE = LOCKS / "pipeline"
"""Held by whoever runs the stages of a workspace, or changes what they all read."""
_PATIENCE_SECONDS = 10.0


def waiting_for(holder: str) -> str:
    """What a command says that waits for ``PIPELINE``."""
    return f"process {' '.join(holder.split())} runs the pipeline here; waiting for its end"


class HeldError(Exception):
    """Another process keeps the lock; the message says which."""


def take(path: Path, patience: float = math.inf, tell: Callable[[str], None] = lambda holder: None) -> IO[str]:
    """The lock as an open file: the system releases it when that is closed, and however its process ends.

    tell: called once when there is something to wait for, with the holder's number, command and start. Raises HeldError
    after ``patience`` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    deadline = time.monotonic() + patience
    waited = False
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip()
            if time.monotonic() > deadline:
                file.close()
                raise HeldError(holder) from None
            if not waited:
                tell(holder)
                waited = True
            time.sleep(0.2)
    with naming(path):
        file.truncate(0)
        file.write(_name())
        file.flush()
    return file


def _name() -> str:
    """This process as another one shall tell of it."""
    command = shlex.join([Path(sys.orig_argv[0]).name, *sys.orig_argv[1:]])
    return f"{os.getpid()} ({command}, since {time.strftime('%Y-%m-%d %H:%M')})"


@contextmanager
def exclusive(stage: str, name: str) -> Iterator[None]:
    """Holds ``.pirl/lock/<stage>-<name>``.

    Waits a little, since a killed run takes a moment to end. Raises UserError when another process keeps it.
    """
    try:
        file = take(LOCKS / f"{stage}-{name}", _PATIENCE_SECONDS)
    except HeldError as error:
        raise UserError(f"{stage} {name} is being run by process {error} already; wait for it or stop it") from None
    with file:
        yield
