"""From outputs/risk to results/ and the page: the files of any scale's report, those of episodes and tasks empty."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pirl_core.files import write_text
from pirl_core.params.sections import Params
from pirl_core.report import tables
from pirl_core.report.curves import curves_table
from pirl_core.report.episodes import episodes_table, write_table
from pirl_core.report.figures import Panel, color_index
from pirl_core.report.inputs import COLUMNS, read_runs, stage_names
from pirl_core.report.markdown import main_table, runs_sentence
from pirl_core.report.metrics import Row, build_success, rounded, to_json
from pirl_core.report.older import Older, Present, older_rows
from pirl_core.report.page import environment
from pirl_core.report.risk.figure import TITLE, regret_panel, regret_picture
from pirl_core.report.risk.rows import read_learners, regret_row
from pirl_core.report.runs import build_runs, parameters, versions


def build_risk_report(params: Params, outputs: Path, results: Path, present: Present) -> dict[str, list[Row]]:
    """As `build.build_report`, of section risk."""
    learners = read_learners(outputs, params)
    rows: list[Row] = rounded([regret_row(learner, params) for learner in learners])
    metrics: dict[str, list[Row]] = {"rows": [], "differences": [], "groups": [], "tasks": [], "regret": rows}
    runs = build_runs(read_runs(outputs, params), len(stage_names(params)))
    older = older_rows(rows, runs["records"], present)
    methods = list(params.risk.methods)
    files = {
        results / "metrics.json": to_json(metrics),
        results / "success.json": to_json(build_success(metrics)),
        results / "run.json": to_json(runs),
        results / "report.md": _markdown(params, metrics, runs, older),
        results / "learning.svg": regret_picture(methods, learners),
        outputs / "report" / "report.html": _html(params, metrics, runs, older, regret_panel(methods, learners)),
    }
    drawn = curves_table(outputs, params)
    for path, text in files.items():
        write_text(path, text)
    write_table(results / "episodes.parquet", episodes_table(pd.DataFrame(columns=[*COLUMNS])))
    write_table(results / "curves.parquet", drawn)
    return metrics


def _markdown(params: Params, metrics: dict[str, list[Row]], runs: dict[str, Any], older: Older) -> str:
    parts = [
        f"# {params.report.title}",
        f"Scale `{params.scale}`, training seeds {', '.join(map(str, params.seeds))}.",
        "## Results",
        *main_table(metrics, params.scale, older),
        "## Learning",
        f"![{TITLE}, a row an experiment and a column a γ](learning.svg)",
    ]
    for experiment, table in _by_experiment(metrics["regret"], older):
        parts += [f"## {experiment}", tables.markdown(*table)]
    parts += ["## What ran", runs_sentence(runs), tables.markdown(*tables.runs_table(runs))]
    return "\n\n".join(part for part in parts if part) + "\n"


def _html(params: Params, metrics: dict[str, list[Row]], runs: dict[str, Any], older: Older, learning: Panel) -> str:
    methods = list(params.risk.methods)
    return (
        environment()
        .get_template("risk/page.html.j2")
        .render(
            params=params,
            runs=runs,
            headline=tables.headline_table(metrics, older),
            notes=[note for note in main_table(metrics, params.scale, older)[1:] if note],
            experiments=_by_experiment(metrics["regret"], older),
            learning=learning,
            color={tables.method_label(method): color_index(methods, method) for method in methods},
            run_table=tables.runs_table(runs),
            versions=versions(runs["environments"]),
            parameters=parameters(runs["records"]),
        )
    )


def _by_experiment(rows: Sequence[Row], older: Older) -> list[tuple[str, tuple[list[str], list[list[str]]]]]:
    """Each with its table."""
    names = dict.fromkeys(row["experiment"] for row in rows)
    return [(name, tables.learners_table([row for row in rows if row["experiment"] == name], older)) for name in names]
