"""Twins: the same rows of tables at two sizes of models, ``paper`` and ``paper_small``. Loads no heavy library."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar, get_args

Twin = Literal["paper", "paper_small"]
TWINS: tuple[Twin, ...] = get_args(Twin)
SIBLINGS = ("reinflow", "rl_co", "sac_flow")
"""Scales of other papers, which have claims of their own and no tables; with their parts each counts as a twin."""
EACH = "each"
"""In place of a group of tasks: the unweighted mean of all groups."""
T = TypeVar("T")


def for_twin(value: T | Mapping[Any, T], twin: str) -> T:
    """What stands for a twin where each has its own, else what stands for both."""
    return value[twin] if isinstance(value, Mapping) else value


def is_part(name: str, twin: str) -> bool:
    """Whether a preset, or folder of results, of that name belongs to the twin: the longest name of one it begins."""
    mine = [other for other in (*TWINS, *SIBLINGS) if name == other or name.startswith(f"{other}_")]
    return bool(mine) and max(mine, key=len) == twin
