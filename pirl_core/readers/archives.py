"""Zip files, and the arrays that numpy keeps in them."""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from pirl_core.errors import UserError, first_line
from pirl_core.readers.text import open_regular

MOST_BYTES = 8 * 2**30
MOST_MEMBERS = 100_000
# Of zipfile and zlib: damage, an unknown method, a password, an end too early.
BROKEN = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError)


@contextmanager
def open_archive(path: Path, remedy: str, most: int = MOST_BYTES) -> Iterator[zipfile.ZipFile]:
    """A zip file whose content is of at most ``most`` bytes and lies below the folder that it is unpacked in.

    Raises UserError for others, and for the damage that is found while the block reads it.
    """
    try:
        with open_regular(path, remedy) as file, zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            if len(members) > MOST_MEMBERS or sum(member.file_size for member in members) > most:
                raise ValueError(f"it would unpack to more than {most:,} bytes or {MOST_MEMBERS:,} files")
            outside = [m.filename for m in members if m.filename.startswith("/") or ".." in Path(m.filename).parts]
            if outside:
                raise ValueError(f"its file {outside[0]!r} would lie outside")
            yield archive
    except BROKEN as error:
        raise UserError(f"{path}: damaged or no zip file ({first_line(error)}); {remedy}") from None


def read_arrays(path: Path, remedy: str, most: int = MOST_BYTES) -> dict[str, np.ndarray]:
    """What ``numpy.savez`` wrote, never a pickle. Raises UserError for anything else."""
    with open_archive(path, remedy, most):
        pass
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy evaluates headers, with whatever comes of it
        raise UserError(f"{path}: no arrays of numpy ({first_line(error)}); {remedy}") from None
