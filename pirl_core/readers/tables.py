"""Parquet."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import types

from pirl_core.errors import UserError, first_line
from pirl_core.readers.text import LARGEST, LARGEST_WHOLE, open_regular

MOST_VALUES = 2**30
MOST_BYTES = 64 * 2**30


class Kind(NamedTuple):
    """What a column holds. words: for the message."""

    words: str
    fits: Callable[[pa.DataType], bool]


def _is_text(kind: pa.DataType) -> bool:
    own = kind.value_type if types.is_dictionary(kind) else kind
    return bool(types.is_string(own) or types.is_large_string(own))


def _is_number(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or types.is_floating(kind))


def _is_vector(kind: pa.DataType) -> bool:
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return _is_number(kind) or bool(lists and _is_number(kind.value_type))


def _is_texts(kind: pa.DataType) -> bool:
    return bool((types.is_list(kind) or types.is_large_list(kind)) and _is_text(kind.value_type))


def _is_picture(kind: pa.DataType) -> bool:
    place = kind.get_field_index("bytes") if types.is_struct(kind) else -1
    return place >= 0 and (types.is_binary(kind.field(place).type) or types.is_large_binary(kind.field(place).type))


TEXT = Kind("text", _is_text)
TEXTS = Kind("lists of text", _is_texts)
TRUTH = Kind("true or false", types.is_boolean)
MAYBE = Kind("true or false", lambda kind: bool(types.is_boolean(kind) or types.is_null(kind)))
WHOLE = Kind("a whole number", types.is_integer)
NUMBER = Kind("a number", _is_number)
VECTOR = Kind("numbers", _is_vector)
PICTURE = Kind("the bytes of a picture", _is_picture)


def column_names(path: Path, remedy: str) -> list[str]:
    """Of the whole table. Raises UserError for a file that is absent, damaged or no parquet."""
    with open_regular(path, remedy) as file:
        try:
            return list(pq.ParquetFile(file).schema_arrow.names)
        except Exception as error:  # of Arrow, which lets other kinds than its own through
            raise _damaged(path, error, remedy) from None


def column_ranges(path: Path, remedy: str, column: str) -> list[tuple[int, int]]:
    """Of each row group the least and the greatest whole number of a column; as if any, where the file tells none.

    Raises UserError for a file that is absent, damaged, no parquet or without the column.
    """
    with open_regular(path, remedy) as file:
        try:
            told = [[chunk.statistics for chunk in group] for group in column_chunks(pq.ParquetFile(file), [column])]
        except Exception as error:  # of Arrow, which lets other kinds than its own through
            raise _damaged(path, error, remedy) from None
    if not all(told):
        raise UserError(f"{path}: column '{column}' is missing; {remedy}")
    return [
        (one.min, one.max)
        if one is not None and one.has_min_max and isinstance(one.min, int)
        else (-LARGEST_WHOLE, LARGEST_WHOLE)
        for one, *_ in told
    ]


def column_chunks(content: pq.ParquetFile, columns: Sequence[str]) -> list[list[pq.ColumnChunkMetaData]]:
    """What the file tells of the columns, row group by row group; of a nested column, of each of its leaves.

    Raises what Arrow raises for a damaged file. Arrow 23 ends the process where it is asked for the metadata of a chunk
    whose histograms cannot be right, so its reader, which raises there, reads a row of the chunk first.
    """
    leaves = enumerate(content.schema.column(number).path for number in range(len(content.schema)))
    places = [place for place, path in leaves if any(path == name or path.startswith(f"{name}.") for name in columns)]
    found = []
    for number in range(content.num_row_groups):
        next(content.iter_batches(batch_size=1, row_groups=[number], columns=list(columns)), None)
        group = content.metadata.row_group(number)
        found.append([group.column(place) for place in places])
    return found


def read_table(path: Path, remedy: str, columns: Mapping[str, Kind], groups: Sequence[int] | None = None) -> pa.Table:
    """The columns, each with a value of its kind in every row; one of MAYBE may have none. Whole numbers come as int64,
    text as strings.

    groups: the row groups to read; None: all.

    Raises UserError for a file that is absent, damaged or no parquet, that claims more than MOST_VALUES, or whose
    columns are not these; numbers beyond LARGEST and NaN count as no numbers, but in vectors.
    """
    with open_regular(path, remedy) as file:
        try:
            content = pq.ParquetFile(file)
            names = list(content.schema_arrow.names)
            _check_size(content, list(columns))
        except Exception as error:  # of Arrow, which lets other kinds than its own through
            raise _damaged(path, error, remedy) from None
        for name, kind in columns.items():
            if names.count(name) != 1:
                raise UserError(f"{path}: column '{name}' is {'twice there' if name in names else 'missing'}; {remedy}")
            found = content.schema_arrow.field(name).type
            if not kind.fits(found):
                raise UserError(f"{path}: column '{name}' must hold {kind.words}, and holds {found}; {remedy}")
        try:
            read = content.read if groups is None else partial(content.read_row_groups, list(groups))
            table = read(columns=list(columns)).select(list(columns)).replace_schema_metadata()
            table.validate(full=True)
        except Exception as error:
            raise _damaged(path, error, remedy) from None
    for place, (name, kind) in enumerate(columns.items()):
        values = table.column(place)
        if values.null_count and kind is not MAYBE:
            raise UserError(f"{path}: column '{name}' has no value in {values.null_count} rows; {remedy}")
        if kind in (WHOLE, TEXT):
            try:
                table = table.set_column(place, name, pc.cast(values, pa.int64() if kind is WHOLE else pa.string()))
            except pa.ArrowInvalid as error:
                raise UserError(f"{path}: column '{name}': {first_line(error)}; {remedy}") from None
        if kind is NUMBER and not _bounded(values):
            raise UserError(
                f"{path}: column '{name}' holds a number that is not finite, or beyond {LARGEST:g}; {remedy}"
            )
    return table


def _bounded(values: pa.ChunkedArray) -> bool:
    sizes = pc.abs(pc.cast(values, pa.float64(), safe=False))
    return bool(pc.all(pc.less_equal(sizes, LARGEST), min_count=0).as_py())


def _check_size(content: pq.ParquetFile, columns: Sequence[str]) -> None:
    """Raises ValueError where the file says that its columns unpack to more than any machine should take."""
    rows = content.metadata.num_rows
    chunks = [chunk for group in column_chunks(content, columns) for chunk in group]
    values = sum(chunk.num_values for chunk in chunks)
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if max(values, rows) > MOST_VALUES or size > MOST_BYTES:
        raise ValueError(f"it says that it holds {rows:,} rows, {values:,} values, {size:,} bytes")


def _damaged(path: Path, error: Exception, remedy: str) -> UserError:
    return UserError(f"{path}: damaged parquet ({first_line(error)}); {remedy}")
