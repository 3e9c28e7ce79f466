"""Checkpoints of a stage that is still running: how a killed stage goes on instead of starting anew.

They lie in ``.pirl/resume/<stage>/<name>/<fingerprint>/<step>/``, outside of DVC. The fingerprint is made of all that
the result depends on, so a changed parameter, input, source or package never finds an old state. A checkpoint is
written beside and renamed, with length and checksum of every file in it; the newest KEPT ones stay.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pirl_core.errors import UserError
from pirl_core.files import copy_tree, replace_folder, write_json
from pirl_core.readers.text import open_regular, read_json

KEPT = 2
ROOT = Path(".pirl/resume")
SUMS = "checksums.json"


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open_regular(path, "delete it") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Checkpoints:
    """The checkpoints of one run; ``kept`` None keeps all (one per demonstration, in curate)."""

    def __init__(self, folder: Path, minutes: float, kept: int | None = KEPT) -> None:
        self.folder = folder
        self.seconds = 60 * minutes
        self.kept = kept
        self.last = time.monotonic()

    def due(self) -> bool:
        """Whether the last checkpoint is older than the parameters allow."""
        return time.monotonic() - self.last >= self.seconds

    def save(self, step: int, write: Callable[[Path], None]) -> None:
        """``write`` fills a folder, which then becomes checkpoint ``step``; older ones go. Whole or not at all."""
        target = self.folder / f"{step:09d}"
        with replace_folder(target) as folder:
            write(folder)
            paths = sorted(path for path in folder.rglob("*") if path.is_file())
            write_json(folder / SUMS, {str(path.relative_to(folder)): _mark(path) for path in paths})
            for path in (*paths, folder / SUMS, folder):
                _sync(path)
        _sync(self.folder)
        self.last = time.monotonic()
        if self.kept is not None:
            for old in self._steps()[: -self.kept]:
                shutil.rmtree(old)

    def latest(self, say: Callable[[str], None]) -> tuple[int, Path] | None:
        """Step and folder of the newest whole checkpoint; a damaged one is passed over, and ``say`` gets a line."""
        for folder in reversed(self._steps()):
            if self._whole(folder, say):
                return int(folder.name), folder
        return None

    def at(self, step: int, say: Callable[[str], None]) -> Path | None:
        """The folder of checkpoint ``step``, if it is there and whole."""
        folder = self.folder / f"{step:09d}"
        return folder if folder.is_dir() and self._whole(folder, say) else None

    def _steps(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*") if path.name.isdecimal()) if self.folder.is_dir() else []

    def _whole(self, folder: Path, say: Callable[[str], None]) -> bool:
        try:
            sums = read_json(folder / SUMS, "delete it")
            damaged = [name for name, mark in sums.items() if not _bears(folder / name, str(mark))]
        except (UserError, OSError):
            damaged = [SUMS]
        if damaged:
            say(f"warning: checkpoint {folder} is damaged ({damaged[0]}); passed over")
        return not damaged


def open_checkpoints(stage: str, name: str, minutes: float, mark: str, kept: int | None = KEPT) -> Checkpoints:
    """Those of this run and these parameters (``mark``: their fingerprint)."""
    return Checkpoints(ROOT / stage / name / mark, minutes, kept)


def forget(stage: str, name: str) -> None:
    """Remove all checkpoints of a finished run, or of one that is to start anew."""
    shutil.rmtree(ROOT / stage / name, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder of files that are only ever replaced, never written into: by hard links where the disk allows."""

    def link(path: str, copy: str) -> None:
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)

    copy_tree(source, target, link)


def read_state(folder: Path) -> dict[str, Any]:
    """The numbers beside the tensors. Raises UserError for a checkpoint that another version wrote."""
    return read_json(folder / "state.json", f"delete {folder}")


def _mark(path: Path) -> str:
    return f"{path.stat().st_size} {checksum(path)}"


def _bears(path: Path, mark: str) -> bool:
    """Whether ``mark`` is the file's; one of another length, which may be endless, is not read."""
    return mark.startswith(f"{path.stat().st_size} ") and _mark(path) == mark


def _sync(path: Path) -> None:
    """Make sure that a power cut cannot leave a renamed folder with empty files."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
