"""Few-shot subsets: which of the demonstrations SFT gets to see."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from pirl_core.errors import UserError


def select_episodes(
    numbers: Sequence[int], task_index: np.ndarray, keep_per_task: int | None, keep_episodes: list[int] | None
) -> np.ndarray:
    """Positions to keep, ascending: the first ``keep_per_task`` of each task, the listed numbers, or all (both None).

    numbers: of the E episodes, rising; a dataset of others may lack some. task_index: (E,) the task of each. Raises
    UserError for numbers that are unknown, repeated or none at all.
    """
    if keep_episodes is not None:
        where = {number: position for position, number in enumerate(numbers)}
        unknown = [number for number in keep_episodes if number not in where]
        if unknown:
            raise UserError(f"curate.keep_episodes: no episode {unknown[0]}; there are {_ranges(numbers)}")
        repeated = [number for number, count in Counter(keep_episodes).items() if count > 1]
        if repeated:
            raise UserError(f"curate.keep_episodes: {repeated[0]} is listed twice; list each number once")
        if not keep_episodes:
            raise UserError("curate.keep_episodes: [] keeps nothing; list episode numbers, or null for all")
        return np.sort(np.array([where[number] for number in keep_episodes]))
    positions = np.arange(len(numbers))
    if keep_per_task is not None:
        before = np.array([np.count_nonzero(task_index[:at] == task_index[at]) for at in positions])
        return positions[before < keep_per_task]
    return positions


def _ranges(numbers: Sequence[int]) -> str:
    """``0 to 3, 5, 7 to 9``; of more than eight such, the first seven and the last."""
    starts = [at for at, number in enumerate(numbers) if at == 0 or number != numbers[at - 1] + 1]
    runs = [(numbers[start], numbers[end - 1]) for start, end in pairwise([*starts, len(numbers)])]
    texts = [f"{first}" if first == last else f"{first} to {last}" for first, last in runs]
    return ", ".join(texts if len(texts) <= 8 else [*texts[:7], "...", texts[-1]])
