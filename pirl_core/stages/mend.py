"""What a kill in the middle of DVC's own writes leaves broken, put right before DVC meets it.

DVC writes ``dvc.lock`` and ``.dvc/tmp/rwlock`` in place, from the top: a SIGKILL leaves them empty or cut, and every
later command fails. All else that DVC writes, it writes beside and renames.
"""

import fcntl
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

from pirl_core.files import write_text
from pirl_core.stages.alive import runs_dvc

RECORD = "dvc.lock"
COPY = Path(".pirl/dvc.lock")
BROKEN = Path(".pirl/dvc.lock.broken")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# A process that was born so much later than the last entry was written did not write it: its number is used again.
_CLOCK_SECONDS = 60.0


def mend(folder: Path) -> list[str]:
    """Check the workspace in ``folder``, a whole ``dvc.lock`` is copied. Returns a line for each thing put right.

    Waits for a DVC that is writing. What was recorded after the copy was made is in DVC's run cache, from which the
    next `dvc repro` takes it without running the stage.
    """
    if not (folder / ".dvc").is_dir():
        return []
    with _held(folder, "lock"):
        mended = _check_record(folder)
    with _held(folder, "rwlock.lock"):
        return mended + _check_holders(folder)


def keep_record(folder: Path) -> None:
    """Copy ``dvc.lock`` if it is whole and no DVC writes just now."""
    try:
        with _held(folder, "lock", fcntl.LOCK_NB):
            record = read_record(folder)
            if is_whole(record):
                write_text(folder / COPY, record.decode())
    except BlockingIOError:
        return


def read_record(folder: Path) -> bytes:
    """Empty where there is no ``dvc.lock``."""
    return _read(folder / RECORD)


def is_whole(record: bytes) -> bool:
    """Whether a ``dvc.lock`` was written to its end, and DVC will read it.

    One that was cut between two lines of its last stage, or after it, may still read as whole. That does no harm: DVC
    takes what lacks for changed, and finds it in its run cache.
    """
    try:
        content = yaml.load(record.decode(), _LOADER)
    except (yaml.YAMLError, ValueError):
        return False
    stages = content.get("stages") if isinstance(content, dict) else None
    return record.endswith(b"\n") and isinstance(stages, dict) and all(_is_entry(entry) for entry in stages.values())


def _is_entry(entry: Any) -> bool:
    """As DVC's schema has it, with what a cut can take away."""
    if not isinstance(entry, dict) or not isinstance(entry.get("cmd"), str | list):
        return False
    files, params = [entry.get(key, []) for key in ("deps", "outs")], entry.get("params", {})
    return (
        all(isinstance(listed, list) and all(isinstance(file, dict) for file in listed) for listed in files)
        and isinstance(params, dict)
        and all(isinstance(read, dict) for read in params.values())
    )


def _check_record(folder: Path) -> list[str]:
    lock, copy = folder / RECORD, folder / COPY
    record = _read(lock)
    if is_whole(record):
        if record != _read(copy):
            write_text(copy, record.decode())
        return []
    # No file is a fresh start, and a merge is for whoever began it to end.
    if not lock.exists() or re.search(rb"^<{7} ", record, re.MULTILINE):
        return []
    kept = _read(copy)
    (folder / BROKEN).parent.mkdir(exist_ok=True)
    shutil.copyfile(lock, folder / BROKEN)
    if not is_whole(kept):
        lock.unlink()
        return [f"{RECORD} was broken and there is no copy: DVC begins a new one, finished stages come from its cache"]
    write_text(lock, kept.decode())
    return [f"{RECORD} was broken and is put back from {COPY}; DVC's cache has what was finished since"]


def _check_holders(folder: Path) -> list[str]:
    """The list of who reads and writes which output, as ``{"write": {path: holder}, "read": {path: [holder, ...]}}``.

    DVC itself takes out the dead, but holds zombies, and whoever has got a dead one's number, for alive.
    """
    path = folder / ".dvc/tmp/rwlock"
    if not path.exists():
        return []
    since = path.stat().st_mtime
    try:
        listed = json.loads(path.read_bytes())
        writers = {out: holder for out, holder in listed.get("write", {}).items() if _is_alive(holder, since)}
        readers = {
            out: [holder for holder in holders if _is_alive(holder, since)]
            for out, holders in listed.get("read", {}).items()
        }
    except (ValueError, TypeError, KeyError, AttributeError):
        if _works_in(folder):
            return ["another DVC works here and .dvc/tmp/rwlock is broken: it is left until that one has ended"]
        path.unlink()
        return [".dvc/tmp/rwlock was broken and is dropped: no DVC works here"]
    alive = {"write": writers, "read": {out: holders for out, holders in readers.items() if holders}}
    if alive == {"write": listed.get("write", {}), "read": listed.get("read", {})}:
        return []
    write_text(path, json.dumps(alive))
    return [".dvc/tmp/rwlock named processes that are gone; their locks are released"]


def _is_alive(holder: dict[str, Any], since: float) -> bool:
    """Whether it runs, and either did so when the list was last written or has the command that the list tells."""
    try:
        process = psutil.Process(holder["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        options = holder["cmd"].partition(" ")[2]
        return process.create_time() < since + _CLOCK_SECONDS or " ".join(process.cmdline()).endswith(options)
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _works_in(folder: Path) -> bool:
    """Whether a DVC of this workspace runs."""
    for process in psutil.process_iter():
        try:
            if runs_dvc(process) and Path(process.cwd()) == folder.resolve():
                return True
        except (psutil.Error, OSError):
            continue
    return False


@contextmanager
def _held(folder: Path, name: str, more: int = 0) -> Iterator[None]:
    """DVC's own lock of that name, the one under which it writes. Raises BlockingIOError with ``more`` LOCK_NB."""
    path = folder / ".dvc/tmp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | more)
        yield


def _read(path: Path) -> bytes:
    """Empty where there is no such file."""
    return path.read_bytes() if path.exists() else b""
