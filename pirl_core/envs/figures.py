"""Published figures of a benchmark, as the module ``paper`` of its folder holds them.

That module has ``NOTE``, what the figures stand for, with ``{}`` where the models' names go; ``RATES``; and, for
episodes that are sequences of subtasks, ``CHAINS``, by model and method.
"""

from collections.abc import Iterable
from typing import NamedTuple

AVERAGE = "average"
"""Of all groups of tasks."""


class Row(NamedTuple):
    """What a printed success rate is of. split: ``id``, or ``ood:`` and the name of a shift."""

    model: str
    method: str
    split: str
    group: str


class Chain(NamedTuple):
    """Per cent of sequences with at least 1 to 5 subtasks solved, and the printed average number of them."""

    reached: tuple[float, float, float, float, float]
    average: float


Rates = dict[Row, float]
"""Success in per cent as printed."""


def by_group(table: str, groups: Iterable[str]) -> Rates:
    """Lines of a model, a method and a rate for each group, in distribution."""
    columns = tuple(groups)
    return {
        Row(model, method, "id", group): float(figure)
        for model, method, *figures in map(str.split, table.strip().splitlines())
        for group, figure in zip(columns, figures, strict=True)
    }
