"""The HTML page. It opens offline; nothing in it points outside."""

import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from markupsafe import Markup

from pirl_core.params.sections import Params
from pirl_core.report import tables
from pirl_core.report.figures import Panel, color_index
from pirl_core.report.markdown import CHAINS, EXPLORING, NO_WARNING, PAIRS, SERVED, Table, intervals_note, paper_note
from pirl_core.report.older import Older, older_note
from pirl_core.report.runs import parameters, revision_label, versions
from pirl_core.report.tables import Row, method_label, percent, split_title
from pirl_core.report.videos import Embedded


class Section(NamedTuple):
    """One experiment on the page. heat: (task, its cell for each policy) rows; clips: method -> videos."""

    name: str
    model: str
    rows: list[Row]
    learning: list[Panel]
    splits: Panel
    heat: list[tuple[str, list[Row]]]
    clips: dict[str, list[Embedded]]


def render_html(
    params: Params,
    metrics: dict[str, list[Row]],
    runs: dict[str, Any],
    warned: Table,
    older: Older,
    sections: list[Section],
    dropped_clips: int,
) -> str:
    """The page as one string: inline CSS, inline SVG, videos as data URIs. warned: `tables.warnings_table`."""
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            params=params,
            metrics=metrics,
            runs=runs,
            sections=sections,
            methods=params.policies,
            color={method: color_index(params.policies, method) for method in params.policies},
            older=older,
            older_note=older_note(older),
            marked=tables.marked_method,
            groups=tables.groups_table(metrics, older),
            chains=tables.chains_table(metrics, older),
            chains_note=CHAINS,
            exploring=tables.exploring_table(metrics, older),
            exploring_note=EXPLORING,
            served=tables.served_table(metrics.get("served", [])),
            served_note=SERVED,
            warned=warned,
            run_table=tables.runs_table(runs),
            parameters=parameters(runs["records"]),
            means=any(row["group_mean"] not in (None, row["rate"]) for row in metrics["rows"]),
            versions=versions(runs["environments"]),
            paper_note=paper_note(metrics["rows"], params.scale),
            shared_starts=tables.shared_starts(metrics),
            no_warning=NO_WARNING,
            returns=any(map(tables.is_return, metrics["rows"])),
            score=tables.score_title(metrics["rows"], "Success", "Return"),
            intervals=intervals_note(metrics["rows"]),
            pairs=PAIRS,
            seed_note=tables.seed_note(metrics["rows"]),
            dropped_clips=dropped_clips,
        )
    )


def place(value: float, rows: Sequence[Row]) -> float:
    """Where on a rail from 0 to 1: a rate where it is, a return between the lowest and the highest of ``rows``."""
    if not any(map(tables.is_return, rows)):
        return value
    ends: list[float] = [row[key] for row in rows for key in ("ci_low", "ci_high")]
    return (value - min(ends)) / (max(ends) - min(ends) or 1)


def environment() -> jinja2.Environment:
    """Of the templates in this folder, for one page."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=percent,
        method=method_label,
        revision=revision_label,
        split=split_title,
        shown=tables.shown,
        amount=tables.amount,
        place=place,
        interval_of=tables.interval_of,
        difference=lambda value, row: tables.difference(row)(value),
        difference_interval=tables.difference_interval,
        seconds=tables.seconds,
        memory=tables.memory,
        inline=_inliner(),
        numeric=tables.numeric,
        yaml=lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100),
    )
    return made


def _inliner() -> Callable[[str], Markup]:
    """Marks SVG as safe and gives each figure's ids a prefix of their own."""
    numbers = itertools.count(1)

    def inline(svg: str) -> Markup:
        prefix = f"f{next(numbers)}-"
        return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}", svg))  # our own figures

    return inline
