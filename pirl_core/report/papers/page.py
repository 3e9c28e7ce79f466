"""The page of a twin: every table and figure of the papers with our runs in it, as Markdown and as one HTML file."""

from collections.abc import Iterable
from typing import NamedTuple

from pirl_core.report import tables
from pirl_core.report.evidence import Evidence
from pirl_core.report.figures import SERIES, Panel
from pirl_core.report.page import environment
from pirl_core.report.papers import cells as cell
from pirl_core.report.papers.cells import Cell, markdown_table, parts_with, runs_of, table_cells
from pirl_core.report.papers.curves import Lines, color_of, page_panels, picture, read_lines
from pirl_core.report.papers.curves import runs_of as drawn_runs
from pirl_core.report.papers.schema import Figure, Papers, Table
from pirl_core.report.runs import machine_label

Rendered = tuple[list[str], list[list[str]]]  # header, rows of cells
SCALES = {
    "paper": "The models and the sizes of the paper.",
    "paper_small": (
        "The same rows with tiny models on two cores: the paper's figures are a reference, not a target; what can be "
        "compared is which policy is better."
    ),
}
CELLS = (
    "A cell has our figure with its 95 % interval (docs/statistics.md), the episodes n and the training seeds, then "
    "what the paper prints. Rates are in per cent, gains (Δ) in points over SFT on the same episodes."
)
CURVES = "The mean over training seeds is bold; each seed is thin."
NONE = "Nothing of this twin has been run."


class Filled(NamedTuple):
    """cells: (rows, columns)."""

    name: str
    table: Table
    cells: list[list[Cell]]


class Drawn(NamedTuple):
    name: str
    figure: Figure
    panels: list[Lines]


class Contents(NamedTuple):
    """claims: header and rows of verdicts, none where there are none. walls, absent: tables, as they are shown."""

    twin: str
    summary: str
    main: Rendered
    claims: Rendered
    tables: list[Filled]
    figures: list[Drawn]
    walls: Rendered
    absent: Rendered


def read_contents(papers: Papers, evidence: Evidence, claims: Rendered) -> Contents:
    """Raises UserError as `evidence.ask` does."""
    filled = [Filled(name, table, table_cells(table, evidence)) for name, table in papers.tables.items()]
    drawn = [Drawn(name, figure, read_lines(figure, evidence)) for name, figure in papers.figures.items()]
    return Contents(
        evidence.twin, _summary(evidence, filled, drawn), _main(filled), claims, filled, drawn, _walls(evidence),
        _absent(evidence, filled, drawn),
    )  # fmt: skip


def render_markdown(contents: Contents) -> str:
    """Pictures lie in the folder ``figures`` beside it (`pictures`)."""
    parts = [f"# The paper's tables and figures: {contents.twin}", contents.summary]
    parts += [tables.markdown(*contents.main)] if contents.main[1] else []
    if contents.claims[1]:
        parts += ["## Claims", tables.markdown(*contents.claims)]
    parts += ["## Tables", CELLS]
    for filled in contents.tables:
        parts += [f"### {_heading(filled.table)}", about(filled.table)]
        parts += [tables.markdown(*markdown_table(filled.table, filled.cells)), *filled.table.remarks]
        parts += [f"† {tables.SINGLE_SEED}"] if is_single(filled.cells) else []
    parts += ["## Figures", CURVES]
    for drawn in contents.figures:
        parts += [f"### {_heading(drawn.figure)}", about(drawn.figure), *drawn.figure.remarks]
        if any(panel.lines for panel in drawn.panels):
            parts.append(f"![{drawn.figure.title}](figures/{drawn.name}.svg)")
        parts += [f"Not drawn: {'; '.join(gaps(drawn.panels))}."] if gaps(drawn.panels) else []
    parts += ["## Wall time", tables.markdown(*contents.walls) if contents.walls[1] else NONE]
    parts += ["## Not run", tables.markdown(*contents.absent)] if contents.absent[1] else []
    return "\n\n".join(parts) + "\n"


def pictures(contents: Contents) -> dict[str, str]:
    """File name -> SVG, of the figures that have a line."""
    return {f"{drawn.name}.svg": svg for drawn in contents.figures if (svg := picture(drawn.panels))}


def render_html(contents: Contents) -> str:
    """One file: inline CSS and SVG, nothing from outside."""
    panels: dict[str, list[Panel]] = {drawn.name: page_panels(drawn.panels) for drawn in contents.figures}
    return environment().get_template("papers/page.html.j2").render(
        contents=contents, panels=panels, cell=cell, about=about, gaps=gaps, is_single=is_single,
        color=lambda index: SERIES.index(color_of(index)), cells_note=CELLS, curves_note=CURVES, none=NONE,
        single_seed=tables.SINGLE_SEED,
    )  # fmt: skip


def about(item: Table | Figure) -> str:
    """Where it stands in the paper, and what the paper ran it on."""
    return f"{item.paper}, {item.source}. The paper's runs: {item.ran_on}."


def gaps(panels: Iterable[Lines]) -> list[str]:
    """Why lines are absent, each reason once."""
    return list(dict.fromkeys(reason for panel in panels for reason in panel.missing))


def is_single(cells: list[list[Cell]]) -> bool:
    """Whether some figure comes of one training seed."""
    return any(one.answer and one.answer.seeds == 1 for line in cells for one in line)


def _heading(item: Table | Figure) -> str:
    return f"{item.name}: {item.title}"


def _counts(filled: Filled) -> tuple[int, int]:
    """(cells with a figure of ours, cells that could have one)."""
    lines = [line for row, line in zip(filled.table.rows, filled.cells, strict=True) if not row.not_run]
    cells = [one for line in lines for one in line if one.answer or one.reason]
    return sum(one.answer is not None for one in cells), len(cells)


def _lines(drawn: Drawn) -> tuple[int, int]:
    have = sum(len(panel.lines) for panel in drawn.panels)
    return have, have + sum(len(panel.missing) for panel in drawn.panels)


def _summary(evidence: Evidence, filled: list[Filled], drawn: list[Drawn]) -> str:
    if not evidence.scales:
        return f"{SCALES[evidence.twin]} {NONE}"
    cells, lines = ([sum(pair) for pair in zip(*counts)] for counts in (map(_counts, filled), map(_lines, drawn)))
    seeds = sorted(set(evidence.episodes["seed"].tolist()))
    wall = tables.seconds(sum(record.get("wall_seconds") or 0.0 for record in evidence.records))
    return (
        f"{SCALES[evidence.twin]} Results of {', '.join(evidence.scales)}, of training seed"
        f"{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}, {wall} of runs in all: "
        f"{cells[0]} of {cells[1]} figures of the tables and {lines[0]} of {lines[1]} curves are there."
    )


def _main(filled: list[Filled]) -> Rendered:
    """Our figures of the first table, which is the paper's own summary."""
    if not filled:
        return [], []
    first = filled[0]
    pairs = zip(first.table.rows, first.cells, strict=True)
    rows = [[f"{row.block} {row.label}".strip(), *map(cell.own, line)] for row, line in pairs]
    return ["policy", *(column.label for column in first.table.columns)], rows


def _walls(evidence: Evidence) -> Rendered:
    rows = []
    for scale in evidence.scales:
        records = [record for record in evidence.records if record["scale"] == scale]
        machines = dict.fromkeys(machine_label(record["machine"]) for record in records if record.get("machine"))
        wall = sum(record.get("wall_seconds") or 0.0 for record in records)
        rows.append([scale, str(len(records)), tables.seconds(wall), "; ".join(machines) or "–"])
    return ["part", "runs", "wall time", "machine"], rows


def _absent(evidence: Evidence, filled: list[Filled], drawn: list[Drawn]) -> Rendered:
    """Of each table and figure that has gaps, how many, and what fills them; and what nothing fills, and why."""
    rows = []
    for name, table, lines in filled:
        rows += _gap(
            evidence, table.name, "figures", _counts(Filled(name, table, lines)), runs_of(table, evidence.twin)
        )
        for reason in dict.fromkeys(row.not_run for row in table.rows if row.not_run):
            rows.append([table.name, ", ".join(row.label for row in table.rows if row.not_run == reason), reason])
    for one in drawn:
        rows += _gap(evidence, one.figure.name, "curves", _lines(one), drawn_runs(one.figure, evidence.twin))
    return ["of", "what", "why, or what makes it"], rows


def _gap(
    evidence: Evidence, name: str, what: str, counts: tuple[int, int], runs: list[tuple[str, str]]
) -> list[list[str]]:
    """A row of `_absent`, unless all is there. counts: (what is there, what could be)."""
    have, most = counts
    scales = ", ".join(f"SCALE={part}" for part in parts_with(runs, evidence.twin))
    remedy = f"make reproduce {scales}" if scales else f"no preset of {evidence.twin} has it"
    return [[name, f"{most - have} of {most} {what}", remedy]] if have < most else []
