"""Few-shot subsets: which of the demonstrations SFT gets to see."""

from collections import Counter

import numpy as np

from pirl_core.errors import UserError


def select_episodes(task_index: np.ndarray, keep_per_task: int | None, keep_episodes: list[int] | None) -> np.ndarray:
    """Episode ids to keep, ascending: the first ``keep_per_task`` of each task, the listed ids, or all (both None).

    task_index: (E,) the task of each episode. Raises UserError for ids that are unknown, repeated or none at all.
    """
    episodes = np.arange(len(task_index))
    if keep_episodes is not None:
        unknown = [episode for episode in keep_episodes if episode not in episodes]
        if unknown:
            raise UserError(f"curate.keep_episodes: no episode {unknown[0]}; ids go from 0 to {len(episodes) - 1}")
        repeated = [episode for episode, count in Counter(keep_episodes).items() if count > 1]
        if repeated:
            raise UserError(f"curate.keep_episodes: {repeated[0]} is listed twice; list each id once")
        if not keep_episodes:
            raise UserError("curate.keep_episodes: [] keeps nothing; list episode ids, or null for all")
        return np.sort(np.array(keep_episodes))
    if keep_per_task is not None:
        position = np.array([np.count_nonzero(task_index[:e] == task_index[e]) for e in episodes])
        return episodes[position < keep_per_task]
    return episodes
