"""Rows of older code: a run's record has a digest of the code it ran with, which may not be the present one any more.

How the present digest is found is the caller's to say (``Present``); ``present_digest`` finds that of this clone.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pirl_core.report.tables import Row

Present = Callable[[str, Mapping[str, Sequence[str]]], str]
"""(stage, the benchmarks, backbones and noise rules that the run used) -> digest of the code as it is now."""
Older = dict[tuple[str, str], list[str]]
"""(experiment, method) of the rows that are of older code -> the stages whose code it is, in the pipeline's order."""


def present_digest(stage: str, parts: Mapping[str, Sequence[str]]) -> str:
    """Of the sources of this clone."""
    from pirl_core.provenance.code import code_of

    digest: str = code_of(stage, parts, Path(__file__).resolve().parents[2]).digest
    return digest


def chain(row: Row) -> list[tuple[str, str]]:
    """(stage, name) of all runs behind a row; one of risk-sensitive RL has a γ."""
    experiment, method, seeds = row["experiment"], row["method"], row["seeds"]
    if "gamma" in row:
        return [("risk", f"{experiment}-{method}-{seed}") for seed in seeds]
    return [
        ("curate", experiment),
        *[("sft", f"{experiment}-{seed}") for seed in seeds],
        *[("rl", f"{experiment}-{method}-{seed}") for seed in seeds if method != "sft"],
        *[("evaluate", f"{experiment}-{method}-{seed}") for seed in seeds],
    ]


def older_rows(rows: Sequence[Row], records: Sequence[Row], present: Present) -> Older:
    """The rows that have a run of other code than the present in their chain.

    rows: of metrics.json, rates or regrets; records: of run.json. A run that left no record, or no digest in it, is of
    unknown code and counts as older.
    """
    told = {(record["stage"], record["name"]): record.get("code") for record in records}
    known: dict[str, bool] = {}

    def is_present(stage: str, code: Any) -> bool:
        if not code:
            return False
        key = json.dumps([stage, code], sort_keys=True)
        if key not in known:
            known[key] = present(stage, code["parts"]) == code["digest"]
        return known[key]

    found: Older = {}
    for row in rows:
        stages = dict.fromkeys(stage for stage, name in chain(row) if not is_present(stage, told.get((stage, name))))
        if stages:
            found[row["experiment"], row["method"]] = list(stages)
    return found


def older_note(older: Older) -> str:
    """What the mark ‡ means, and which stages of each experiment it is for; '' where no row bears it."""
    stages: dict[str, dict[str, None]] = {}
    for (experiment, _), names in older.items():
        stages.setdefault(experiment, {}).update(dict.fromkeys(names))
    said = "; ".join(f"{experiment} ({', '.join(_ordered(names))})" for experiment, names in stages.items())
    return f"‡ Of code that has changed since: {said}." if said else ""


def _ordered(stages: Mapping[str, None]) -> list[str]:
    return sorted(stages, key=["curate", "sft", "rl", "evaluate", "risk"].index)
