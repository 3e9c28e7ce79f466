"""From outputs/ to results/ and the page. Everything is read and computed before anything is written."""

from pathlib import Path

from pirl_core.files import write_text
from pirl_core.params.sections import Params
from pirl_core.report.curves import curves_table
from pirl_core.report.episodes import episodes_table, write_table
from pirl_core.report.figures import Curves, learning_panels, learning_picture, split_panel
from pirl_core.report.inputs import (
    Curve,
    listed_splits,
    read_clips,
    read_curve,
    read_episodes,
    read_runs,
    read_warnings,
    stage_names,
)
from pirl_core.report.markdown import render_markdown
from pirl_core.report.metrics import Row, build_metrics, build_success, to_json
from pirl_core.report.older import Present, older_rows
from pirl_core.report.page import Section, render_html
from pirl_core.report.papers.beside import check_models
from pirl_core.report.risk.build import build_risk_report
from pirl_core.report.runs import build_runs
from pirl_core.report.served import served_rows
from pirl_core.report.tables import warnings_table
from pirl_core.report.videos import MAX_BYTES, Embedded, choose, embed


def build_report(params: Params, outputs: Path, results: Path, present: Present) -> dict[str, list[Row]]:
    """Writes report.md and what is beside it (docs/files.md) to ``results``, the page to ``outputs``/report.

    results: the folder of this scale. present: tells which rows are of older code. Returns the metrics. Raises
    UserError, and writes nothing, when an evaluation in params is missing or broken, or a paper_model is none of the
    paper's. Of risk-sensitive RL: `risk.build`.
    """
    check_models(params)
    if params.risk.experiments:
        return build_risk_report(params, outputs, results, present)
    episodes = read_episodes(outputs, params)
    metrics = build_metrics(params, episodes)
    if served := served_rows(params, outputs):
        metrics["served"] = served
    runs = build_runs(read_runs(outputs, params), len(stage_names(params)))
    warned = warnings_table(read_warnings(outputs, params))
    older = older_rows(metrics["rows"], runs["records"], present)
    curves = {experiment: _rl_curves(params, outputs, experiment) for experiment in params.experiments}
    clips, dropped = _all_clips(params, outputs)
    rows = {e: [row for row in metrics["rows"] if row["experiment"] == e] for e in params.experiments}
    sections = [
        Section(
            experiment,
            entry.model,
            rows[experiment],
            learning_panels(
                params.policies,
                [read_curve(outputs / "sft" / f"{experiment}-{seed}" / "metrics.jsonl") for seed in params.seeds],
                curves[experiment],
            ),
            split_panel(experiment, params.policies, rows[experiment]),
            _heat(params, metrics, experiment),
            clips[experiment],
        )
        for experiment, entry in params.experiments.items()
    ]
    files = {
        results / "metrics.json": to_json(metrics),
        results / "success.json": to_json(build_success(metrics)),
        results / "run.json": to_json(runs),
        results / "report.md": render_markdown(params, metrics, runs, warned, older),
        results / "learning.svg": learning_picture(params.policies, curves),
        outputs / "report" / "report.html": render_html(params, metrics, runs, warned, older, sections, dropped),
    }
    played = episodes_table(episodes)
    drawn = curves_table(outputs, params)
    for path, text in files.items():
        write_text(path, text)
    write_table(results / "episodes.parquet", played)
    write_table(results / "curves.parquet", drawn)
    return metrics


def _rl_curves(params: Params, outputs: Path, experiment: str) -> Curves:
    def curve(policy: str, seed: int) -> Curve:
        return read_curve(outputs / "rl" / f"{experiment}-{policy}-{seed}" / "metrics.jsonl")

    return {policy: [curve(policy, seed) for seed in params.seeds] for policy in params.policies if policy != "sft"}


def _heat(params: Params, metrics: dict[str, list[Row]], experiment: str) -> list[tuple[str, list[Row]]]:
    """In-distribution tasks, each with one cell per policy in the order of params."""
    cells: dict[str, list[Row]] = {}
    for row in metrics["tasks"]:
        if row["experiment"] == experiment and row["split"] == listed_splits(params, experiment)[0]:
            cells.setdefault(row["task"], []).append(row)
    return sorted(cells.items())


def _all_clips(params: Params, outputs: Path) -> tuple[dict[str, dict[str, list[Embedded]]], int]:
    """Per experiment and policy its chosen clips, and how many clips were left out."""
    budget, total, shown = MAX_BYTES, 0, 0
    strips: dict[str, dict[str, list[Embedded]]] = {}
    for experiment in params.experiments:
        strips[experiment] = {}
        for policy in params.policies:
            clips = [clip for seed in params.seeds for clip in read_clips(outputs, experiment, policy, seed)]
            embedded, budget = embed(choose(clips), budget)
            total, shown = total + len(clips), shown + len(embedded)
            if embedded:
                strips[experiment][policy] = embedded
    return strips, total - shown
