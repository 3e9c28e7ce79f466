"""A paper's table with our figures: a cell has interval, counts and the printed figure, or says why it is empty."""

from typing import NamedTuple

import numpy as np

from pirl_core.report import tables
from pirl_core.report.evidence import Answer, Evidence, Query, ask, listed_by_seed, parts_of
from pirl_core.report.papers.schema import Ask, Column, Row, Table, asks_of, is_blank
from pirl_core.report.twins import for_twin

IN_UNITS = ("average", "average_gain", "steps")
"""What is printed in subtasks or steps; all else is in per cent."""


class Cell(NamedTuple):
    """of: what it is a figure of, as `schema.Ask` has it. reason: why there is no answer, '' where there is nothing to
    ask. paper: as printed, but a rate in [0, 1]."""

    of: str
    answer: Answer | None
    reason: str
    paper: float | None


def table_cells(table: Table, evidence: Evidence) -> list[list[Cell]]:
    """(rows, columns). Raises UserError as `evidence.ask` does."""
    nothing = [None] * len(table.columns)
    return [
        [
            _cell(table, row, column, figure, evidence)
            for column, figure in zip(table.columns, row.paper or nothing, strict=True)
        ]
        for row in table.rows
    ]


def own(cell: Cell) -> str:
    """Our figure; a dash where there is none."""
    return show(cell.of, cell.answer.mean) if cell.answer else "–"


def limits(cell: Cell) -> str:
    """The 95 % interval, or why there is no figure, in a few words."""
    if cell.answer is None:
        return cell.reason.split(":")[0]
    return tables.interval(
        cell.answer.low, cell.answer.high, cell.answer.seeds == 1, lambda value: show(cell.of, value)
    )


def counts(cell: Cell) -> str:
    if cell.answer is None:
        return ""
    return f"n {cell.answer.n}, {cell.answer.seeds} seed{'s' if cell.answer.seeds > 1 else ''}"


def printed(cell: Cell) -> str:
    return "" if cell.paper is None else show(cell.of, cell.paper)


def show(of: str, value: float) -> str:
    """A rate in per cent, a gain in points, a length in subtasks or steps."""
    if of == "gain":
        return tables.points(value)
    if of == "average":
        return tables.length(value)
    if of == "average_gain":
        return f"{value:+.3f}".replace("-", "−")
    return f"{value:.1f}" if of == "steps" else tables.percent(value)


def markdown_table(table: Table, cells: list[list[Cell]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of text; the rows' blocks and labels are the first columns."""
    blocks = any(row.block for row in table.rows)
    header = [*(["block"] if blocks else []), "row", *(column.label for column in table.columns)]
    rows = [
        [*([row.block] if blocks else []), row.label, *map(_markdown_cell, line)]
        for row, line in zip(table.rows, cells, strict=True)
    ]
    return header, rows


def runs_of(table: Table, twin: str) -> list[tuple[str, str]]:
    """(experiment, method) of the runs that the table asks for."""
    found: dict[tuple[str, str], None] = {}
    for row in table.rows:
        for one in [one for column in table.columns for one in asks_of(table, row, column)]:
            if not (row.not_run or is_blank(one)):
                methods = ["sft", str(one.method)] if str(one.of).endswith("gain") else [str(one.method)]
                found |= {(name, method): None for name in _experiments(one, twin) for method in methods}
    return list(found)


def parts_with(runs: list[tuple[str, str]], twin: str) -> list[str]:
    """The parts of the twin that make these runs, each (experiment, method), with all of their training seeds; as few
    as will do. A run that none makes asks for none."""
    having = [listed for run in runs for listed in listed_by_seed(twin, *run).values()]
    found: list[str] = []
    while needed := [listed for listed in having if not set(listed) & set(found)]:
        # The one that brings most; of equals the first.
        found.append(max(parts_of(twin), key=lambda part: sum(part in listed for listed in needed)))
    return sorted(found)


def _markdown_cell(cell: Cell) -> str:
    lines = [f"**{own(cell)}** {limits(cell)}", counts(cell)] if cell.answer else [limits(cell)]
    lines += [f"paper {printed(cell)}"] if printed(cell) else []
    return "<br>".join(line for line in lines if line)


def _cell(table: Table, row: Row, column: Column, figure: float | None, evidence: Evidence) -> Cell:
    """figure: as printed, None where the paper has none."""
    asks = asks_of(table, row, column)
    of = asks[0].of or "success"
    paper = figure if figure is None or of in IN_UNITS else figure / 100
    if row.not_run or is_blank(asks[0]):
        return Cell(of, None, row.not_run or "" if figure is not None else "", paper)
    answer = _mean_answer([_answer(evidence, one) for one in asks])
    return Cell(of, None, answer, paper) if isinstance(answer, str) else Cell(of, answer, "", paper)


def _mean_answer(answers: list[Answer | str]) -> Answer | str:
    """Unweighted, with the mean of the limits: as if the parts were fully dependent, as `evidence.ask` does."""
    known = [answer for answer in answers if isinstance(answer, Answer)]
    if len(known) < len(answers):
        return next(answer for answer in answers if isinstance(answer, str))
    mean, low, high = (float(np.mean([answer[place] for answer in known])) for place in range(3))
    return Answer(mean, low, high, sum(answer.n for answer in known), min(answer.seeds for answer in known))


def _answer(evidence: Evidence, one: Ask) -> Answer | str:
    query = Query(
        tuple(_experiments(one, evidence.twin)),
        str(one.method),
        tuple(one.splits or ["id"]),
        one.group,
        one.of or "success",
    )
    if one.of != "average_gain":
        return ask(evidence, query)
    after, before = (ask(evidence, query._replace(of="average", method=name)) for name in (query.method, "sft"))
    if isinstance(after, str) or isinstance(before, str):
        return after if isinstance(after, str) else str(before)
    # `difference_interval` is for differences of -1, 0 and 1, which those of lengths are not: limits as if the two were
    # opposed, which is on the safe side.
    return Answer(
        after.mean - before.mean, after.low - before.high, after.high - before.low, after.n,
        min(after.seeds, before.seeds),
    )  # fmt: skip


def _experiments(one: Ask, twin: str) -> list[str]:
    return [name + (one.suffix or "") for name in for_twin(one.experiments or [], twin)]
