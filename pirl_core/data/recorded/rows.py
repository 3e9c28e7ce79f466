"""An episode's rows, of a file that holds it alone or many others too."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pirl_core.data.recorded.files import AGAIN, Listed, Recorded
from pirl_core.readers.tables import WHOLE, Kind, column_ranges, read_table

NUMBER = "episode_index"


class Rows:
    """Reads episode after episode. The part of a file that was read last is kept: neighbours often lie in it too."""

    def __init__(self, data: Recorded, columns: Mapping[str, Kind]) -> None:
        self._data = data
        self._columns = columns
        self._file: tuple[Path, list[tuple[int, int]]] | None = None
        self._part: tuple[Path, list[int], pa.Table] | None = None

    def of(self, episode: Listed, path: Path) -> pa.Table:
        """All columns of the episode's rows, in the file's order. Raises UserError as ``read_table``."""
        if not self._data.shares_files:
            return read_table(path, AGAIN, self._columns)
        if self._file is None or self._file[0] != path:
            self._file = path, column_ranges(path, AGAIN, NUMBER)
        groups = [at for at, (low, high) in enumerate(self._file[1]) if low <= episode.number <= high]
        if self._part is None or self._part[:2] != (path, groups):
            self._part = None  # two parts need not be in memory at once
            self._part = path, groups, read_table(path, AGAIN, {NUMBER: WHOLE, **self._columns}, groups)
        table = self._part[2]
        return table.filter(pc.equal(table[NUMBER], episode.number))
