"""A digest of a folder's files, quick to ask again: what kept its size and time of change is not read again."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from pirl_core.errors import UserError
from pirl_core.files import write_text
from pirl_core.readers.text import MOST_BYTES, open_regular, read_json

KNOWN = Path(".pirl/digests.json")
HOLLOW = 1000
"""A file so many times longer than what the disk holds of it is no data, however well the disk may press."""
REMEDY = "take it out of the folder"


def folder_digest(folder: Path) -> str:
    """Of names and contents, 16 hexadecimal digits; hidden files do not count. ``folder`` may be a file.

    Raises UserError for what is no file.
    """
    try:
        known = read_json(KNOWN, "delete it")
    except UserError:
        known = {}
    found = {}
    whole = hashlib.sha256()
    for path in sorted(_files(folder)) if folder.is_dir() else [folder]:
        inside = path.relative_to(folder)
        state = path.stat()
        _require_content(path, state)
        mark = f"{state.st_size} {state.st_mtime_ns}"
        seen = str(known.get(str(path.absolute()), ""))
        digest = seen.removeprefix(f"{mark} ") if seen.startswith(f"{mark} ") else _checksum(path)
        found[str(path.absolute())] = f"{mark} {digest}"
        whole.update(f"{inside.as_posix()} {digest}\n".encode())
    if not found.items() <= known.items():
        write_text(KNOWN, json.dumps(known | found))
    return whole.hexdigest()[:16]


def _require_content(path: Path, state: os.stat_result) -> None:
    """Raises UserError for a file that would be read for hours and holds nothing."""
    stored = 512 * state.st_blocks
    if state.st_size > MOST_BYTES and state.st_size > HOLLOW * stored:
        raise UserError(f"{path}: {state.st_size} bytes, of which the disk holds {stored}: it is a hole; {REMEDY}")


def _files(folder: Path) -> Iterator[Path]:
    """Links to folders are followed, each folder once."""
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(here, name)) not in seen
        ]
        yield from (Path(here, name) for name in names if not name.startswith("."))


def _checksum(path: Path) -> str:
    with open_regular(path, REMEDY) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
