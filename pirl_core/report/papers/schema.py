"""What a file of this folder may say: one table or one figure of a paper, with its numbers as printed.

A cell asks for what its table, its column and its row say together; where they differ the row counts, then the column.
A curve does so with figure, panel and series.
"""

from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import Field

from pirl_core.errors import UserError
from pirl_core.readers.strict_yaml import read_yaml
from pirl_core.readers.typed import Strict, check
from pirl_core.report.twins import TWINS

FOLDER = Path(__file__).parent
REMEDY = "pirl_core/report/papers/schema.py has the keys"
Word = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\w+$")]
Split = Annotated[str, Field(pattern=r"^(id|id:exploring|id:exploring_before|ood:\w+)$")]
Of = Literal[
    "success", "steps", "average", "reached_1", "reached_2", "reached_3", "reached_4", "reached_5", "gain",
    "average_gain",
]  # fmt: skip


class Ask(Strict):
    """Fields of `evidence.Query`. suffix: ends the name of each experiment; of: ``average_gain`` is average less that
    of SFT."""

    experiments: list[Name] | dict[Name, list[Name]] | None = None
    suffix: Name | None = None
    method: Name | None = None
    splits: list[Split] | None = None
    group: Name | None = None
    of: Of | None = None


class Column(Strict):
    """mean_of: labels of columns, of whose cells this one is the unweighted mean; it asks what they ask, and `ask`.
    model: as `Row` has it, in a table whose columns are policies."""

    label: Word
    ask: Ask = Ask()
    mean_of: list[Word] = Field(default_factory=list)
    model: Name | None = None


class Row(Strict):
    """paper: a figure for each column as printed, rates in per cent, null where there is none; or none at all.

    model: the paper_model of params.yaml whose rows these figures stand beside; also: further methods they are for.
    not_run: why we do not run this, in a few words.
    """

    label: Word
    block: str = ""
    ask: Ask = Ask()
    not_run: Word | None = None
    model: Name | None = None
    also: list[Name] = Field(default_factory=list)
    paper: list[float | None] = Field(default_factory=list)


class Beside(Strict):
    """Where figures of rows with a `model` stand beside ours in a scale's report.

    note: says what they are, with ``{}`` for the models' names. group: that of the benchmark's tasks whose figures are
    the averages; only where the table has no column for each group.
    """

    benchmark: Annotated[str, Field(pattern=r"^[\w.]+$")]
    note: Annotated[str, Field(pattern=r"\{\}")] | None = None
    group: Name | None = None


class Table(Strict):
    kind: Literal["table"]
    paper: Word
    name: Word
    title: Word
    source: Word
    ran_on: Word
    remarks: list[Word] = Field(default_factory=list)
    beside: Beside | None = None
    ask: Ask = Ask()
    columns: Annotated[list[Column], Field(min_length=1)]
    rows: Annotated[list[Row], Field(min_length=1)]


class Draw(Strict):
    """Arguments of `evidence.curve`. spread: a metric that is the half-width of a band around the curve."""

    experiment: Name | dict[Name, Name] | None = None
    suffix: Name | None = None
    method: Name | None = None
    stage: Literal["sft", "rl"] | None = None
    metric: Word | None = None
    spread: Word | None = None


Part = TypeVar("Part", Ask, Draw)


class Panel(Strict):
    label: Word
    draw: Draw = Draw()


class Series(Strict):
    label: Word
    draw: Draw = Draw()


class Figure(Strict):
    kind: Literal["figure"]
    paper: Word
    name: Word
    title: Word
    source: Word
    ran_on: Word
    remarks: list[Word] = Field(default_factory=list)
    draw: Draw = Draw()
    panels: Annotated[list[Panel], Field(min_length=1)]
    series: Annotated[list[Series], Field(min_length=1)]


class Papers(NamedTuple):
    """By the file's name without its ending, in that order."""

    tables: dict[str, Table]
    figures: dict[str, Figure]


def read_papers(folder: Path = FOLDER) -> Papers:
    """All files of a folder; none where there is no folder. Raises UserError for the first mistake in one."""
    found: dict[tuple[str, str, str], Path] = {}
    papers = Papers({}, {})
    for path in sorted(folder.glob("*.yaml")):
        item = read_item(path)
        key = (item.kind, item.paper, item.name)
        if key in found:
            raise UserError(f"{path}: name = {item.name!r}: {found[key].name} has that {item.kind} already; rename one")
        found[key] = path
        if isinstance(item, Table):
            papers.tables[path.stem] = item
        else:
            papers.figures[path.stem] = item
    return papers


def read_item(path: Path) -> Table | Figure:
    """One file. Raises UserError naming file, key and remedy."""
    content = read_yaml(path)
    if content.get("kind") == "figure":
        figure = check(Figure, content, str(path), REMEDY)
        _check_figure(figure, path)
        return figure
    table = check(Table, content, str(path), REMEDY)
    _check_table(table, path)
    return table


def merged(*parts: Part) -> Part:
    """Key by key, what the last of them says that says something."""
    values = {key: value for part in parts for key, value in part if value is not None}
    return parts[0].model_copy(update=values)


def asks_of(table: Table, row: Row, column: Column) -> list[Ask]:
    """What a cell asks; it is the unweighted mean of the answers."""
    parts = [one for one in table.columns if one.label in column.mean_of] or [column]
    return [merged(table.ask, one.ask, column.ask, row.ask) for one in parts]


def is_blank(ask: Ask) -> bool:
    """Whether there is nothing to ask: the gain of SFT over itself."""
    return ask.method == "sft" and ask.of in ("gain", "average_gain")


def draw_of(figure: Figure, panel: Panel, series: Series) -> Draw:
    return merged(figure.draw, panel.draw, series.draw)


def _check_table(table: Table, path: Path) -> None:
    labels = [column.label for column in table.columns]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"{path}: columns: label {twice[0]!r} is given twice; rename one")
    plain = {column.label for column in table.columns if not column.mean_of}
    for column in table.columns:
        if unknown := [label for label in column.mean_of if label not in plain]:
            raise UserError(f"{path}: columns: mean_of = {unknown[0]!r} of {column.label!r}; one of {sorted(plain)}")
    models = [part.model for part in table.columns] + [part.model for part in table.rows]
    if table.beside is None and any(models):
        raise UserError(f"{path}: model: stands beside nothing; give the table a beside, or leave model out")
    for row in table.rows:
        if len(row.paper) not in (0, len(labels)):
            raise UserError(
                f"{path}: rows: paper of {row.label!r} has {len(row.paper)} figures; there are {len(labels)} columns, "
                "give null where the paper has none"
            )
        if row.not_run and (row.model or row.ask != Ask()):
            raise UserError(f"{path}: rows: {row.label!r} has not_run; leave out its ask and model")
        for column in () if row.not_run else table.columns:
            for ask in asks_of(table, row, column):
                _check_given(path, f"{row.label!r} × {column.label!r}", ask, "experiments", "method")
                _check_twins(path, ask.experiments)


def _check_figure(figure: Figure, path: Path) -> None:
    for panel in figure.panels:
        for series in figure.series:
            draw = draw_of(figure, panel, series)
            needed = ("experiment", "metric") if draw.stage == "sft" else ("experiment", "metric", "method")
            _check_given(path, f"{panel.label!r} × {series.label!r}", draw, *needed)
            _check_twins(path, draw.experiment)


def _check_given(path: Path, place: str, part: Ask | Draw, *keys: str) -> None:
    if lacking := [key for key in keys if getattr(part, key) is None]:
        raise UserError(f"{path}: {place}: no {lacking[0]}; give it in one of the two, or for the whole {path.stem}")


def _check_twins(path: Path, value: object) -> None:
    if isinstance(value, dict) and value.keys() != set(TWINS):
        raise UserError(f"{path}: experiments: of {sorted(value)} alone; name those of {' and '.join(TWINS)}")
