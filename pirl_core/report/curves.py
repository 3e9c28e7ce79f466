"""results/<scale>/curves.parquet: every point of every training curve, from which anybody can draw figures."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa

from pirl_core.params.sections import Params
from pirl_core.report.episodes import table_of
from pirl_core.report.inputs import TRAINING, read_curve, stage_names

SCHEMA = pa.schema(
    [
        ("stage", pa.string()),
        ("experiment", pa.string()),
        ("method", pa.string()),
        ("seed", pa.int64()),
        ("metric", pa.string()),
        ("step", pa.int64()),
        ("value", pa.float64()),
    ]
)
KEYS = ["stage", "experiment", "method", "seed", "metric", "step"]
FILES = ("metrics.jsonl", "timing.jsonl")
Point = tuple[str, str, str, int, str, int, float]


def curves_table(outputs: Path, params: Params) -> pa.Table:
    """Of all listed runs, rows sorted by KEYS; method is '' for sft, and null in a file is no point.

    Raises UserError for a broken line.
    """
    return table_of(pd.DataFrame(_points(outputs, params), columns=SCHEMA.names), SCHEMA, KEYS)


def _points(outputs: Path, params: Params) -> Iterator[Point]:
    for stage, name in stage_names(params):
        if stage in TRAINING:
            experiment, *method, seed = name.split("-")
            for file in FILES:
                for metric, points in read_curve(outputs / stage / name / file).items():
                    for step, value in points:
                        yield stage, experiment, "".join(method), int(seed), metric, int(step), value
