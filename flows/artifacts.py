"""What a flow run shows in the UI besides its log: progress, stages, results, report.

An artifact that cannot be written costs a line in the log and nothing else.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.lines import Progress, clock
from pirl_core.readers.text import read_json, read_text
from pirl_core.report.folder import results_of

Log: TypeAlias = logging.Logger | logging.LoggerAdapter[Any]
Row = dict[str, Any]


def slug(text: str) -> str:
    """An artifact's key: small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def describe(done: int, total: int, running: Mapping[str, Progress | None]) -> tuple[float, str]:
    """Percentage over all stages, steps of the running ones included; and a line for each of these with its ETA."""
    share = done + sum(step.share for step in running.values() if step)
    lines = [f"{done} of {total} stages done"]
    for address, step in sorted(running.items()):
        if step is None:
            lines.append(f"{address}: started")
        else:
            eta = "" if step.eta is None else f", {clock(step.eta)} left"
            lines.append(f"{address}: {step.step}/{step.total}{eta}")
    return round(100 * share / max(1, total), 1), "; ".join(lines)


class ProgressBar:
    """The artifact pirl-progress, rewritten as the run goes on."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._id: UUID | None = None
        self._shown: tuple[float, str] | None = None

    def show(self, percentage: float, description: str) -> None:
        if (percentage, description) == self._shown:
            return
        self._shown = (percentage, description)

        def write() -> None:
            if self._id is None:
                created = create_progress_artifact(percentage, key="pirl-progress", description=description)
                self._id = created if isinstance(created, UUID) else None
            else:
                update_progress_artifact(self._id, percentage, description)

        attempt(self._log, write)


def write_stages(log: Log, rows: Sequence[Row]) -> None:
    attempt(log, lambda: create_table_artifact(list(rows), key="pirl-stages", description="Stages of this run"))


def write_results(log: Log, folder: Path) -> None:
    """Results table and report, as far as this run has left them."""
    from pirl_core.report.tables import headline_table, seed_note

    def table() -> None:
        results = results_of(root=folder)
        metrics = read_json(results / "metrics.json", "run stage report")
        header, cells = headline_table(metrics)
        rows = [dict(zip(header, line, strict=True)) for line in cells]
        said = f"Main table of {results}. {seed_note(metrics['rows'])}".strip()
        create_table_artifact(rows, key="pirl-results", description=said)

    def report() -> None:
        text = read_text(results_of(root=folder) / "report.md", "run stage report")
        page = folder / "outputs/report/report.html"
        where = f"Page with curves and videos: [{page}]({page.as_uri()}) (open it from the disk)\n\n"
        without_figures = re.sub(r"^!\[[^\]]*\]\([^)]*\)\s*$", "", text, flags=re.MULTILINE)
        create_markdown_artifact(where + without_figures, key="pirl-report", description="Report")

    attempt(log, table)
    attempt(log, report)


def attempt(log: Log, write: Callable[[], object]) -> None:
    try:
        write()
    except Exception as error:
        # Whatever it is, from an absent file to a server that is down: the training matters more.
        log.info("no artifact written: %s: %s", type(error).__name__, " ".join(str(error).split())[:200])
