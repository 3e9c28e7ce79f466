"""Printed figures beside ours in a scale's report: those of tables that say for which benchmark and models they are."""

from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from pirl_core import named
from pirl_core.errors import UserError
from pirl_core.params.errors import unknown
from pirl_core.params.file import resolve
from pirl_core.params.sections import Params
from pirl_core.report.papers.schema import FOLDER, Table, merged, read_papers
from pirl_core.report.risk.published import check_published
from pirl_core.report.twins import EACH

LABELS = {"pi0": "π0", "pi05": "π0.5", "smolvla": "SmolVLA", "groot": "GR00T N1.5"}
"""How the paper writes models; any other is called what params call it."""
AVERAGE = "average"
"""Of all groups of tasks."""
LAST = "reached_5"
REACHED = ("reached_1", "reached_2", "reached_3", "reached_4", LAST)


class Printed(NamedTuple):
    """What a printed success rate is of. split: ``id``, or ``ood:`` and the name of a shift."""

    model: str
    method: str
    split: str
    group: str


class Chain(NamedTuple):
    """Per cent of sequences with at least 1 to 5 subtasks solved, and the printed average number of them."""

    reached: tuple[float, ...]
    average: float


class Published(NamedTuple):
    """Of one benchmark. note: what the figures are, with ``{}`` for the models' names; rates: success in per cent as
    printed; chains: of sequences of subtasks, by model and method."""

    note: str
    rates: dict[Printed, float]
    chains: dict[tuple[str, str], Chain]


@cache
def published(benchmark: str) -> Published | None:
    """The figures for a benchmark, or None where no table has any.

    Those of a benchmark of somebody's own, which a dotted name says, are tables in the folder ``papers`` of its
    package. Raises UserError for two tables with different figures for the same row.
    """
    tables = [table for table in _tables(_folder(benchmark)) if table.beside and table.beside.benchmark == benchmark]
    rates: dict[Printed, float] = {}
    lengths: dict[tuple[str, str], dict[str, float]] = {}
    for table in tables:
        for row, of, figure in _figures(table):
            if of in ("success", LAST) and rates.setdefault(row, figure) != figure:
                said = f"{table.name} of {table.paper}: {' '.join(row)} = {figure}"
                raise UserError(f"{said}: another table has {rates[row]}; mend one of the two")
            if of in (*REACHED, "average"):
                lengths.setdefault((row.model, row.method), {})[of] = figure
    notes = [table.beside.note for table in tables if table.beside and table.beside.note]
    chains = {
        key: Chain(tuple(by[name] for name in REACHED), by["average"])
        for key, by in lengths.items()
        if {*REACHED, "average"} <= by.keys()
    }
    return Published(" ".join(notes), rates, chains) if tables else None


def check_models(params: Params) -> None:
    """Raises UserError for a ``paper_model`` that is none of the paper's, and has no figure for the benchmark; and for
    a world's ``paper`` that has none."""
    check_published(params)
    for name, entry in params.experiments.items():
        benchmark = resolve(params, name).env.benchmark
        figures = None if benchmark is None else published(benchmark)
        models = {*LABELS, *(row.model for row in (figures.rates if figures else ()))}
        if entry.paper_model not in (None, *models):
            known = unknown(str(entry.paper_model), sorted(models))
            raise UserError(
                f"experiments.{name}.paper_model: {known}; or null, for a model that is none of the paper's"
            )


def paper_rate(benchmark: str, paper_model: str | None, method: str, split: str, group: str = AVERAGE) -> float | None:
    """The paper's success rate in [0, 1] for the same row and group of tasks, or None where it prints none."""
    figures = published(benchmark)
    figure = figures.rates.get(Printed(paper_model or "", method, split, group)) if figures else None
    return None if figure is None else round(figure / 100, 6)


def paper_chain(benchmark: str, paper_model: str | None, method: str, split: str) -> Chain | None:
    """The paper's figures for sequences of subtasks, or None where it prints none."""
    figures = published(benchmark)
    return figures.chains.get((paper_model or "", method)) if figures and split == "id" else None


@cache
def _tables(folder: Path) -> list[Table]:
    return list(read_papers(folder).tables.values())


def _folder(benchmark: str) -> Path:
    if "." not in benchmark:
        return FOLDER
    spec = find_spec(named.where(named.BENCHMARKS, benchmark, "facts"))
    return Path(str(spec and spec.origin)).parent / "papers"


def _figures(table: Table) -> Iterator[tuple[Printed, str, float]]:
    """(row, of, figure) of every printed figure that stands beside ours; an average's for its one group too."""
    for row in table.rows:
        for column, figure in zip(table.columns, row.paper, strict=False):
            model, ask = row.model or column.model, merged(table.ask, column.ask, row.ask)
            if figure is None or model is None or column.mean_of:
                continue
            group = AVERAGE if ask.group in (None, EACH) else ask.group
            for name in {group, table.beside.group or group} if table.beside else {group}:
                for method in (str(ask.method), *row.also):
                    yield Printed(model, method, (ask.splits or ["id"])[0], name), ask.of or "success", figure
