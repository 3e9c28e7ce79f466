"""One process at a time runs a stage: two would write the same outputs and checkpoints."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pirl_core.errors import UserError

_PATIENCE_SECONDS = 10.0


@contextmanager
def exclusive(stage: str, name: str) -> Iterator[None]:
    """Holds ``.pirl/lock/<stage>-<name>``, which the system releases however this process ends.

    Waits a little, since a killed run takes a moment to end. Raises UserError when another process keeps it.
    """
    path = Path(".pirl/lock") / f"{stage}-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    file.seek(0)
                    raise UserError(
                        f"{stage} {name} is being run by process {file.read().strip()} already; wait for it or stop it"
                    ) from None
                time.sleep(0.2)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
