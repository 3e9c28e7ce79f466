"""Policies of other people that played the same protocol (``pirl evaluate --server``), beside the pipeline's own."""

from pathlib import Path
from typing import Any

import pandas as pd

from pirl_core.evaluation.record import RECORD, read_record
from pirl_core.params.file import resolve
from pirl_core.params.sections import Params
from pirl_core.report.inputs import read_table
from pirl_core.report.metrics import rate_of, rounded

Row = dict[str, Any]


def served_rows(params: Params, outputs: Path) -> list[Row]:
    """One a policy and split, of the experiments in ``params`` and their present protocol; what was played under
    another one is left out. Raises UserError for a broken record or table."""
    rows = []
    for path in sorted((outputs / "evaluate").glob(f"*/{RECORD}")):
        record = read_record(path)
        table = read_table(path.parent / "episodes.parquet")
        experiment = str(table["experiment"].iloc[0]) if len(table) else ""
        if experiment in params.experiments and record.params == _protocol(params, experiment):
            about = {"experiment": experiment, "policy": str(table["method"].iloc[0]), "noise": record.noise}
            rows += [{**about, **row} for row in split_rows(table)]
    found: list[Row] = rounded(rows)
    return found


def split_rows(table: pd.DataFrame) -> list[Row]:
    """Of one evaluation, one for each split."""
    return [{"split": str(split), **rate_of(part)} for split, part in table.groupby("split", sort=False)]


def _protocol(params: Params, experiment: str) -> dict[str, dict[str, Any]]:
    run = resolve(params, experiment)
    return {"env": run.env.model_dump(mode="json"), "evaluate": run.evaluate.model_dump(mode="json")}
