"""Pictures of a dataset, left on disk: PNG inside parquet files, found once and decoded when they are asked for.

Axes: N frames, C cameras, H W pixels.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pirl_core.errors import UserError
from pirl_core.readers.pictures import decode_picture
from pirl_core.readers.tables import column_chunks

HELD_BYTES = 2**30
"""Decoded pictures that a process keeps; of a larger dataset it decodes the rest again each time."""
_BEGINNING = 64
"""Bytes by which a picture is looked for: its header, and the first of its pixels."""


class Pictures:
    """(N, C, H, W, 3) uint8, to be indexed like an array by its first axis. What was decoded is kept while there is
    room, so a small dataset is decoded once, and of a large one nothing but HELD_BYTES is in memory.

    paths: of the data files. file: (N,) which of them has the frame. offset, length: (N, C) of the PNG in it, bytes.
    """

    def __init__(
        self, paths: Sequence[Path], file: np.ndarray, offset: np.ndarray, length: np.ndarray, size: tuple[int, int]
    ) -> None:
        self.shape = (*offset.shape, *size, 3)
        self._paths = paths
        self._file = file
        self._offset = offset
        self._length = length
        self._held: dict[int, np.ndarray] = {}
        self._room = HELD_BYTES // int(np.prod(self.shape[1:]))
        # Pillow lets go of the interpreter while it decodes.
        self._threads = ThreadPoolExecutor(len(os.sched_getaffinity(0)))

    def followed_by(self, other: "Pictures") -> "Pictures":
        """Of both, these first. Their sizes must be equal."""
        return Pictures(
            [*self._paths, *other._paths],
            np.concatenate([self._file, other._file + len(self._paths)]),
            np.concatenate([self._offset, other._offset]),
            np.concatenate([self._length, other._length]),
            (self.shape[2], self.shape[3]),
        )

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        """As of an array; only the frames that the key's first part names are read.

        Raises UserError for a picture that is damaged.
        """
        rows, *rest = key if isinstance(key, tuple) else (key,)
        wanted = np.arange(len(self))[rows]
        frames = list(self._threads.map(self._frame, wanted.reshape(-1).tolist()))
        found = np.array(frames, np.uint8).reshape(*wanted.shape, *self.shape[1:])
        return found[(slice(None),) * wanted.ndim + tuple(rest)]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def _frame(self, row: int) -> np.ndarray:
        held = self._held.get(row)
        if held is not None:
            return held
        path = self._paths[self._file[row]]
        frame = np.empty(self.shape[1:], np.uint8)
        with path.open("rb") as file:
            for camera, (offset, length) in enumerate(zip(self._offset[row], self._length[row], strict=True)):
                encoded = os.pread(file.fileno(), int(length), int(offset))
                try:
                    frame[camera] = np.asarray(decode_picture(encoded).convert("RGB"))
                except ValueError as error:
                    raise UserError(
                        f"{path}: picture {camera} of frame {row}: {error}; make the dataset again"
                    ) from None
        if len(self._held) < self._room:
            self._held[row] = frame
        return frame


def offsets(path: Path, column: str, encoded: Sequence[bytes]) -> np.ndarray:
    """Where in the file the pictures begin that it holds in ``column``, row by row: (rows,) int64.

    A column that is neither compressed nor a dictionary has its values one after the other, between some bytes of
    parquet's own. Raises ValueError for another.
    """
    found = np.empty(len(encoded), np.int64)
    row = 0
    with path.open("rb") as file:
        table = pq.ParquetFile(file)
        for number, leaves in enumerate(column_chunks(table, [column])):
            [chunk] = [leaf for leaf in leaves if leaf.path_in_schema == f"{column}.bytes"]
            content = os.pread(file.fileno(), chunk.total_compressed_size, chunk.data_page_offset)
            at = 0
            for picture in encoded[row : row + table.metadata.row_group(number).num_rows]:
                at = content.find(picture[:_BEGINNING], at)
                if at < 0 or content[at : at + len(picture)] != picture:
                    raise ValueError(f"'{column}' is compressed")
                found[row] = chunk.data_page_offset + at
                at += len(picture)
                row += 1
    return found
