"""results/<scale>/episodes.parquet: one row an episode, from which anybody can compute the intervals, or their own."""

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

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


def to_parquet(episodes: pd.DataFrame) -> bytes:
    """The file's content, rows sorted by KEYS: of equal episodes equal bytes, in whatever order they come.

    episodes: the frame of `inputs.read_episodes`. Neither pandas' nor Arrow's own notes go along.
    """
    rows = episodes.rename(columns={"reward": "return"}).sort_values(KEYS, ignore_index=True)
    table = pa.Table.from_pandas(rows[SCHEMA.names], SCHEMA, preserve_index=False).replace_schema_metadata()
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    return buffer.getvalue()
