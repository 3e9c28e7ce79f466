"""results/<scale>/episodes.parquet: one row an episode, from which anybody can compute the intervals, or their own.

And how a table of results is written, so that of equal rows come equal bytes.
"""

import os
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pirl_core.files import naming

SCHEMA = pa.schema(
    [
        ("experiment", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("split", pa.string()),
        ("task", pa.string()),
        ("env_seed", pa.int64()),
        ("success", pa.bool_()),
        ("return", pa.float64()),
        ("steps", pa.int64()),
    ]
)
KEYS = ["experiment", "method", "seed", "split", "task", "env_seed"]


def episodes_table(episodes: pd.DataFrame) -> pa.Table:
    """Of the frame of `inputs.read_episodes`."""
    return table_of(episodes.rename(columns={"reward": "return"}), SCHEMA, KEYS)


def table_of(frame: pd.DataFrame, schema: pa.Schema, keys: list[str]) -> pa.Table:
    """The columns of ``schema``, rows sorted by ``keys``; neither pandas' nor Arrow's own notes go along."""
    rows = frame.sort_values(keys, ignore_index=True, kind="stable")
    return pa.Table.from_pandas(rows[schema.names], schema, preserve_index=False).replace_schema_metadata()


def write_table(path: Path, table: pa.Table) -> None:
    """Written beside and renamed; of equal rows equal bytes, in whatever order they came."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with naming(path):
            pq.write_table(table, temporary, compression="zstd", store_schema=False)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
