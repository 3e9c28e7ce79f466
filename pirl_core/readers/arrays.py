"""Arrays in an HDF5 or npz file, left there and read a few rows at a time; never a pickle, never another file."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from zipfile import ZipFile

import numpy as np

from pirl_core.errors import UserError, first_line
from pirl_core.readers.archives import open_archive
from pirl_core.readers.text import open_regular

HDF5, ZIP = b"\x89HDF\r\n\x1a\n", b"PK"
"""How such files begin."""
MOST_BYTES = 2**30
"""Of the rows that are read at once."""
MOST_UNPACKED = 2**40
"""Of all arrays of a file, of which only some rows are in memory."""
CACHE_BYTES = 16 * 2**20
"""Of each HDF5 array that is open: its pieces are unpacked whole, and episode after episode lies in one of them."""
MOST_OPEN = 16
# Of h5py: damage, an end too early, a filter that is not here, a link that leads nowhere.
BROKEN = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


class Rows(Protocol):
    """(N, ...) on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __getitem__(self, rows: slice) -> np.ndarray: ...


class Arrays(Protocol):
    """A file: arrays, in groups where it has any; ``a/b`` is b of group a, and "" the file itself."""

    def names(self, group: str = "") -> list[str]:
        """Arrays and groups right below; none of what is no group."""

    def below(self, group: str = "") -> dict[str, Rows]:
        """All arrays below, at any depth, by their names from there on."""

    def find(self, name: str) -> Rows | None:
        """The array; None where there is none of that name."""

    def text(self, group: str, attribute: str) -> str | None:
        """An attribute of the group; None where it has none of that name, or no text."""


@contextmanager
def open_arrays(path: Path, remedy: str) -> Iterator[Arrays]:
    """The file's arrays, while the block runs.

    Raises UserError for a file of another kind, for the damage that the block finds, and where h5py is not installed.
    """
    with open_regular(path, remedy) as file:
        start = file.read(len(HDF5))
    if start.startswith(ZIP):
        with open_archive(path, remedy, MOST_UNPACKED) as archive:
            yield _Npz(archive)
    elif start == HDF5:
        try:
            import h5py
        except ModuleNotFoundError:
            raise UserError(f"{path}: package h5py is not installed; pip install 'pirl_core[hdf5]'") from None
        try:
            with h5py.File(path, "r", locking=False, rdcc_nbytes=CACHE_BYTES) as content:
                yield _Hdf5(content, h5py)
        except BROKEN as error:
            raise UserError(f"{path}: a damaged HDF5 file ({first_line(error)}); {remedy}") from None
    else:
        raise UserError(f"{path}: neither HDF5 nor npz, and nothing else is read, a pickle least of all; {remedy}")


def read_rows(path: Path, name: str, array: Rows, start: int, stop: int) -> np.ndarray:
    """Rows ``start`` to ``stop``. Raises UserError for other things than numbers, and for too many of them."""
    if array.dtype.kind not in "biuf":
        raise UserError(f"{path}: '{name}' holds {array.dtype}, not numbers; store it as float32")
    size = (stop - start) * math.prod(array.shape[1:]) * array.dtype.itemsize
    if size > MOST_BYTES:
        raise UserError(f"{path}: {stop - start:,} rows of '{name}' are {size:,} bytes; cut them into episodes")
    return np.asarray(array[start:stop])


class _Hdf5:
    """Of h5py, whose names ``kinds`` are."""

    def __init__(self, file: Any, kinds: Any) -> None:
        self._file = file
        self._kinds = kinds
        self._open: dict[str, Rows] = {}

    def names(self, group: str = "") -> list[str]:
        found = self._file.get(group or "/")
        if not isinstance(found, self._kinds.Group) or found.file != self._file:
            return []
        return [name for name in found if isinstance(name, str)]

    def below(self, group: str = "") -> dict[str, Rows]:
        found: dict[str, Rows] = {}

        def add(name: str, item: Any) -> None:
            # A name that is no UTF-8 comes as bytes.
            if isinstance(item, self._kinds.Dataset) and isinstance(name, str):
                found[name] = item

        self._file[group or "/"].visititems(add)  # follows no link
        return found

    def find(self, name: str) -> Rows | None:
        if name in self._open:
            return self._open[name]
        found = self._file.get(name)
        if not isinstance(found, self._kinds.Dataset):
            return None
        if found.file != self._file or found.external or found.is_virtual:
            raise ValueError(f"'{name}' lies in another file")
        if len(self._open) == MOST_OPEN:
            self._open.clear()
        self._open[name] = found
        return self._open[name]

    def text(self, group: str, attribute: str) -> str | None:
        found = self._file[group or "/"].attrs.get(attribute)
        return found if isinstance(found, str) else None


class _Npz:
    def __init__(self, archive: ZipFile) -> None:
        self._archive = archive
        self._members = {name.removesuffix(".npy"): name for name in archive.namelist() if name.endswith(".npy")}
        self._open: dict[str, _Member] = {}

    def names(self, group: str = "") -> list[str]:
        return [] if group else [*self._members]

    def below(self, group: str = "") -> dict[str, Rows]:
        return {name: self._member(name) for name in self.names(group)}

    def find(self, name: str) -> Rows | None:
        return self._member(name) if name in self._members else None

    def text(self, group: str, attribute: str) -> str | None:
        return None

    def _member(self, name: str) -> "_Member":
        if name not in self._open:
            self._open[name] = _Member(self._archive, self._members[name])
        return self._open[name]


class _Member:
    """An array of an npz file. Rows are read as they come; going back unpacks it anew from its beginning."""

    def __init__(self, archive: ZipFile, name: str) -> None:
        self._file = archive.open(name)
        version = np.lib.format.read_magic(self._file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None:
            raise ValueError(f"{name} is of version {version}")
        self.shape, self._columns_first, self.dtype = read(self._file)
        if not self.shape or min(self.shape) < 0:
            raise ValueError(f"{name} is of shape {self.shape}")
        self._start = self._file.tell()

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        stop = max(start, stop)
        if self._columns_first and len(self.shape) > 1:
            return self._all()[start:stop]
        return self._read(start, (stop - start, *self.shape[1:]))

    def _all(self) -> np.ndarray:
        """Of one that has its columns one after the other: no row lies together."""
        if math.prod(self.shape) * self.dtype.itemsize > MOST_BYTES:
            raise ValueError(f"an array of shape {self.shape} is stored by columns; save it in C order")
        return self._read(0, self.shape[::-1]).T

    def _read(self, row: int, shape: tuple[int, ...]) -> np.ndarray:
        bytes_a_row = math.prod(self.shape[1:]) * self.dtype.itemsize
        size = math.prod(shape) * self.dtype.itemsize
        self._file.seek(self._start + row * bytes_a_row)
        content = self._file.read(size)
        if len(content) != size:
            raise ValueError(f"{self._file.name} ends early")
        return np.frombuffer(content, self.dtype).reshape(shape)
