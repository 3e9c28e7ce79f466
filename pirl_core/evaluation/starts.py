"""Whose starts are whose: which episodes of the evaluation begin as episodes for training may.

Where a start is drawn from the episode's seed, the seed's use keeps them apart. A published list of starts is played in
turn by whoever asks for it, so there they are the same as soon as ``env.shift`` asks for it too.
"""

from pirl_core.facts import facts_of
from pirl_core.params.sections import Env, Evaluate, split_label


def shared_starts(env: Env, evaluate: Evaluate) -> dict[str, str]:
    """A sentence for each split (by its label) that has such episodes; {} where evaluation has its starts to itself."""
    listed = facts_of(env.benchmark).listed
    known = {start for task in env.tasks for start in listed(task, env.shift)}
    notes = {}
    for name, split in evaluate.splits.items():
        count = range(split.episodes_per_task)
        lists = [listed(task, split.shift) for task in split.tasks or env.tasks]
        starts = [one[number % len(one)] for one in lists if one for number in count]
        shared = sum(start in known for start in starts)
        if shared:
            notes[split_label(name)] = (
                f"{shared} of {len(lists) * len(count)} episodes start as demonstrations, training and validation may: "
                f"env.shift = {env.shift} plays the same list of starts"
            )
    return notes
