"""The HTML page and its Markdown twin. Both open offline; nothing in them points outside."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from markupsafe import Markup

from pirl_core.params.file import resolve
from pirl_core.params.sections import Params
from pirl_core.report import tables
from pirl_core.report.figures import Panel, color_index
from pirl_core.report.paper import LABELS, published
from pirl_core.report.runs import parameters, versions
from pirl_core.report.tables import Row, method_label, percent, split_title
from pirl_core.report.videos import Embedded

Table = tuple[list[str], list[list[str]]]  # header, rows of cells


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
    sections: list[Section],
    dropped_clips: int,
) -> str:
    """The page as one string: inline CSS, inline SVG, videos as data URIs. warned: `tables.warnings_table`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        method=method_label,
        split=split_title,
        points=tables.points,
        interval=tables.interval,
        seconds=tables.seconds,
        memory=tables.memory,
        inline=_inliner(),
        numeric=tables.numeric,
        yaml=lambda data: yaml.safe_dump(data, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100),
    )
    return environment.get_template("page.html.j2").render(
        params=params,
        metrics=metrics,
        runs=runs,
        sections=sections,
        methods=params.policies,
        color={method: color_index(params.policies, method) for method in params.policies},
        groups=tables.groups_table(metrics),
        chains=tables.chains_table(metrics),
        chains_note=CHAINS,
        warned=warned,
        run_table=tables.runs_table(runs),
        parameters=parameters(runs["records"]),
        means=any(row["group_mean"] not in (None, row["rate"]) for row in metrics["rows"]),
        versions=versions(runs["records"]),
        paper_note=paper_note(params),
        shared_starts=tables.shared_starts(metrics),
        no_warning=NO_WARNING,
        intervals=INTERVALS,
        pairs=PAIRS,
        point_format=tables.points,
        seed_note=tables.seed_note(metrics["rows"]),
        dropped_clips=dropped_clips,
    )


def _inliner() -> Callable[[str], Markup]:
    """Marks SVG as safe and gives each figure's ids a prefix of their own."""
    numbers = itertools.count(1)

    def inline(svg: str) -> Markup:
        prefix = f"f{next(numbers)}-"
        return Markup(re.sub(r'(\bid="|url\(#|href="#)', rf"\1{prefix}", svg))  # our own figures

    return inline


def render_markdown(params: Params, metrics: dict[str, list[Row]], runs: dict[str, Any], warned: Table) -> str:
    """Tables only; results/learning.svg is its one figure."""
    groups, chains = tables.groups_table(metrics), tables.chains_table(metrics)
    seeds = tables.seed_note(metrics["rows"])
    parts = [
        f"# {params.report.title}",
        f"Scale `{params.scale}`, training seeds {', '.join(map(str, params.seeds))}. {INTERVALS}",
        "## Results",
        tables.markdown(*tables.rates_table(metrics)),
        seeds,
        paper_note(params),
        *tables.shared_starts(metrics),
    ]
    if chains[1]:
        parts += ["## Sequences of subtasks", CHAINS, tables.markdown(*chains)]
    if metrics["differences"]:
        parts += ["## RL − SFT", PAIRS, tables.markdown(*tables.differences_table(metrics))]
    if groups[1]:
        parts += ["## By group of tasks", tables.markdown(*groups)]
    parts += ["## Learning", "![Success over RL iterations, one panel per experiment](learning.svg)"]
    parts += ["## Per task, in distribution"]
    for experiment in params.experiments:
        parts += [f"### {experiment}", tables.markdown(*tables.tasks_table(metrics, experiment, "id"))]
    parts += ["## Warnings", tables.markdown(*warned) if warned[1] else NO_WARNING]
    parts += ["## What ran", runs_sentence(runs), tables.markdown(*tables.runs_table(runs))]
    return "\n\n".join(part for part in parts if part) + "\n"


INTERVALS = (
    "Success is the share of episodes that reach the goal within the time limit. Every training seed plays the same "
    "initial states; the 95 % intervals are for new training seeds and new initial states (docs/statistics.md)."
)
CHAINS = (
    "Len-k is the share of sequences of which at least the first k subtasks were solved, each in turn without a reset; "
    "average is the number solved. An episode that is a sequence succeeds with its last subtask. A subtask has so many "
    "steps; where the protocol gives more, the figures are not those of the protocol."
)
NO_WARNING = "No training run raised a warning."
PAIRS = (
    "Every policy plays the same episodes, so each RL episode is paired with the SFT episode of the same task, "
    "initial state and training seed."
)


def paper_note(params: Params) -> str:
    """What the paper's column means, in one sentence; '' where no experiment names a paper model."""
    models: dict[str, dict[str, None]] = {}
    for name, entry in params.experiments.items():
        if model := entry.paper_model:
            models.setdefault(resolve(params, name).env.benchmark, {})[LABELS.get(model, model)] = None
    notes = [figures.NOTE.format(", ".join(models[name])) for name in models if (figures := published(name))]
    if not notes:
        return ""
    note = " ".join(notes)
    if params.scale != "paper":
        note += " Our policy, tasks and demonstrations are far smaller at this scale: it is a reference, not a target."
    return note


def runs_sentence(runs: dict[str, Any]) -> str:
    missing = runs["expected"] - runs["recorded"]
    text = (
        f"{runs['recorded']} stage runs took {tables.seconds(runs['total_wall_seconds'])} in all; "
        f"the largest used {tables.memory(runs['peak_memory_mib'])} of memory."
    )
    return text + (f" {missing} left no record." if missing else "")
