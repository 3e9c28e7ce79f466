"""Makes the few-shot dataset of an experiment: the expert's or others' demonstrations in LeRobot v3 files."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pirl_core.data.demonstrate import Trained, Wish, demonstrations
from pirl_core.data.domains import REAL, real_half
from pirl_core.data.fewshot import select_episodes
from pirl_core.data.lerobot import DemoEpisode, write_dataset
from pirl_core.data.recorded import (
    Listed,
    Recorded,
    Shared,
    clipped,
    open_recorded,
    read_episodes,
    shared_sentences,
)
from pirl_core.data.variation import variation_notes
from pirl_core.envs.contract import Wanted
from pirl_core.envs.opening import settings_of, train_expert, trains_expert
from pirl_core.errors import UserError
from pirl_core.facts import Facts, facts_in, facts_of
from pirl_core.files import replace_folder, write_json
from pirl_core.params.sections import Curate, Env
from pirl_core.readers.archives import read_arrays
from pirl_core.readers.text import read_json_list
from pirl_core.seeds import Domain, use_of
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker

DEMONSTRATION = "demonstration.npz"
EXPERT, RECORDS = "expert.npz", "experts.json"


class _Trained(NamedTuple):
    """Who shows the tasks, where that is no script. records: of each task, how it was trained and how good it got."""

    arrays: Trained
    records: list[Any]


def make_dataset(
    env: Env, curate: Curate, folder: Path, checkpoints: Checkpoints, tracker: Tracker, workers: int | None = None
) -> None:
    """Writes ``folder`` whole or not at all; ``meta/curation.json`` tells where the episodes come from. With
    ``curate.real`` a folder ``real`` in it is the other domain's dataset.

    Demonstration i of a task is the same whichever others are kept, so only the kept ones are made: keeping 5 of 50
    costs a tenth. Each is a checkpoint of its own, so an interrupted run makes only those that are missing. Of a
    dataset of others only the files of the kept episodes are downloaded.
    """
    with replace_folder(folder) as temporary:
        made = _write("sim", env, curate, temporary, checkpoints, 0, tracker, workers)
        if curate.real is not None:
            real = temporary / REAL
            real.mkdir()
            _write("real", *real_half(env, curate, curate.real), real, checkpoints, made, tracker, workers)


def _write(
    domain: Domain,
    env: Env,
    curate: Curate,
    folder: Path,
    checkpoints: Checkpoints,
    first: int,
    tracker: Tracker,
    workers: int | None,
) -> int:
    """The dataset of one domain, in an empty folder; returns of how many episodes. first: how many others have before,
    in whose place no checkpoint may come."""
    recorded = _recorded(env, curate)
    facts = facts_in(env) if recorded is None else recorded.facts
    numbers, task_index, kept = choose_episodes(env, curate, recorded)
    origins: list[dict[str, str | int]] = []
    values: list[tuple[np.ndarray, np.ndarray]] = []
    notes: list[str] = []
    trained: _Trained | None = None

    def tell(text: str) -> None:
        tracker.warn(0, text)
        notes.append(text)

    if recorded is None:
        shared: list[Shared] = []
        shown = shown_tasks(env)
        wishes = [Wish(shown[task_index[e]], int(e) % curate.episodes_per_task, domain) for e in kept]
        trained = _trained(env, curate, Checkpoints(checkpoints.folder / f"expert-{domain}", 0.0, None), tracker)
        episodes = _made(env, curate, wishes, checkpoints, first, tracker, workers, trained)
    else:
        chosen = [recorded.episodes[position] for position in kept]
        shared = shared_sentences([episode.sentence for episode in recorded.episodes], recorded.tasks, facts)
        for text in peculiarities(recorded, curate, chosen, shared):
            tell(text)
        episodes = _reported(read_episodes(recorded, env, chosen), tracker)
    kept_numbers = [numbers[position] for position in kept]
    episodes = _noted(episodes, kept_numbers, facts, origins)
    watched = _watched(episodes, facts.state_dim(env.object_state), values)
    write_dataset(folder, watched, list(env.cameras), facts)
    clipped_actions = sum(int(origin["clipped_actions"]) for origin in origins)
    if clipped_actions:
        frames = sum(int(origin["frames"]) for origin in origins)
        tell(f"{clipped_actions} of {frames} actions had numbers beyond ±{facts.action_range:g} and were clipped")
    state, action = (np.concatenate(part) for part in zip(*values, strict=True))
    write_json(
        folder / "meta/curation.json",
        {
            "dataset": curate.dataset,
            "dataset_commit": None if recorded is None else recorded.commit,
            "seed": curate.seed,
            "action_noise": curate.action_noise,
            "episodes_available": int(np.count_nonzero(task_index >= 0)),
            "episodes_kept": len(kept),
            "failed_attempts": sum(int(origin["failed_attempts"]) for origin in origins),
            "clipped_actions": clipped_actions,
            "notes": notes,
            "shared_sentences": [group._asdict() for group in shared],
            "hardly_varying": [
                *variation_notes("state", facts.state, state),
                *variation_notes("action", facts.action, action),
            ],
            "episodes": origins,
            **({} if trained is None else {"experts": trained.records}),
        },
    )
    return len(kept)


def dataset_size(env: Env, curate: Curate) -> int:
    """Demonstrations that the dataset, or both, will hold."""
    others = 0 if curate.real is None else dataset_size(*real_half(env, curate, curate.real))
    return len(choose_episodes(env, curate, _recorded(env, curate))[2]) + others


def peculiarities(recorded: Recorded, curate: Curate, chosen: Sequence[Listed], shared: Sequence[Shared]) -> list[str]:
    """A line for each thing about the chosen episodes of a dataset of others that one would not expect."""
    texts = [*recorded.notes]
    if shared:
        some = [
            f"'{group.sentences[0]}' counts for {group.tasks[0]} and is also {_some(group.tasks[1:])}"
            for group in shared
        ]
        texts.append(f"no episode tells which task it shows where several share a sentence: {_some(some, '; ')}")
    if curate.keep_episodes is None:
        key = "episodes_per_task" if curate.keep_per_task is None else "keep_per_task"
        wanted = curate.keep_per_task or curate.episodes_per_task
        count = Counter(episode.task for episode in chosen)
        few = [
            f"{count[task]} of {task}" for task in recorded.tasks if count[task] < wanted * _parts(recorded.facts, task)
        ]
        if few:
            texts.append(f"fewer demonstrations than curate.{key} = {wanted}: {_some(few)}")
    rate = recorded.info["fps"]
    if rate != recorded.facts.rate:
        texts.append(
            f"{recorded.told_in}: fps is {rate:g}, {recorded.facts.label} acts {recorded.facts.rate:g} times a second;"
            " where the frames were thinned out, its actions are not what the simulator takes: give another dataset"
        )
    played = sum(episode.seed is not None and use_of(episode.seed) == "evaluation" for episode in chosen)
    if played:
        texts.append(
            f"{played} of {len(chosen)} episodes were played from starts of an evaluation; evaluate what learns from"
            " them from others: give that experiment an evaluate.seed of its own"
        )
    single = [str(episode.number) for episode in chosen if episode.length == 1]
    if single:
        texts.append(f"{len(single)} of {len(chosen)} episodes have one frame: {_some(single)}")
    return texts


def _some(texts: Sequence[str], comma: str = ", ") -> str:
    """The first three, and how many more."""
    return comma.join(texts[:3]) + (f"{comma}and {len(texts) - 3} more" if len(texts) > 3 else "")


def _recorded(env: Env, curate: Curate) -> Recorded | None:
    if curate.dataset is None:
        return None
    return open_recorded(curate.dataset, curate.dataset_revision, env, curate.columns)


def shown_tasks(env: Env) -> list[str]:
    """The tasks that a script shows: those of ``env.tasks``, or what shows them in parts."""
    facts = facts_of(env.benchmark)
    return list(dict.fromkeys(shown for task in env.tasks for shown in facts.task(task).shown_by or (task,)))


def _parts(facts: Facts, task: str) -> int:
    """Of which each has as many demonstrations as others' tasks."""
    return max(1, len(facts.task(task).parts))


def choose_episodes(
    env: Env, curate: Curate, recorded: Recorded | None
) -> tuple[Sequence[int], np.ndarray, np.ndarray]:
    """Number and task of each available demonstration (-1: none of those to learn), and the positions of those kept.

    Of a dataset of others, at most ``episodes_per_task`` of each task, or of each part of one, unless they are listed.
    """
    if recorded is None:
        task_index = np.repeat(np.arange(len(shown_tasks(env))), curate.episodes_per_task)
        numbers: Sequence[int] = range(len(task_index))
        return numbers, task_index, select_episodes(numbers, task_index, curate.keep_per_task, curate.keep_episodes)
    parts: list[tuple[str | None, int]] = [
        (task, part) for task in recorded.tasks for part in range(_parts(recorded.facts, task))
    ]
    known = {part: number for number, part in enumerate(parts)}
    task_index = np.array([known.get((episode.task, episode.part), -1) for episode in recorded.episodes])
    numbers = [episode.number for episode in recorded.episodes]
    wanted = curate.keep_per_task or curate.episodes_per_task
    kept = select_episodes(numbers, task_index, wanted, curate.keep_episodes)
    foreign = [recorded.episodes[position] for position in kept if task_index[position] < 0]
    if curate.keep_episodes is not None and foreign:
        raise UserError(
            f"curate.keep_episodes: episode {foreign[0].number} shows '{foreign[0].sentence}', which is none of"
            " env.tasks; drop it, or add its task"
        )
    return numbers, task_index, kept[task_index[kept] >= 0]


def _reported(episodes: Iterable[DemoEpisode], tracker: Tracker) -> Iterator[DemoEpisode]:
    for number, episode in enumerate(episodes):
        tracker.progress(number + 1, episode.task)
        yield episode


def _made(
    env: Env,
    curate: Curate,
    wishes: list[Wish],
    checkpoints: Checkpoints,
    first: int,
    tracker: Tracker,
    workers: int | None,
    trained: _Trained | None,
) -> Iterator[DemoEpisode]:
    """Every wish's demonstration, in order: from its checkpoint, of number ``first`` and on, or from the expert."""
    places = range(first, first + len(wishes))
    found = [checkpoints.at(place, lambda text: tracker.warn(0, text)) for place in places]
    missing = [wish for wish, slot in zip(wishes, found, strict=True) if slot is None]
    arrays = None if trained is None else trained.arrays
    with closing(demonstrations(env, curate, missing, workers, arrays)) as fresh:
        for number, wish, slot in zip(places, wishes, found, strict=True):
            if slot is None:
                episode = next(fresh)
                checkpoints.save(number, partial(_save, episode))
            else:
                episode = _load(slot)
            tracker.progress(number + 1, wish.task)
            yield episode


def _trained(env: Env, curate: Curate, checkpoints: Checkpoints, tracker: Tracker) -> _Trained | None:
    """From its checkpoint, or trained now; None where the benchmark has a script."""
    if not trains_expert(env.world):
        return None
    if curate.expert_return is None:
        raise UserError(
            "curate.expert_return = null: no script shows these tasks; give the return at which a policy may"
        )
    slot = checkpoints.at(0, lambda text: tracker.warn(0, text))
    if slot is None:
        wanted = Wanted(curate.seed, curate.expert_return, curate.expert_steps)
        arrays, records = train_expert(settings_of(env), wanted, lambda text: print(text, flush=True))

        def write(folder: Path) -> None:
            np.savez(folder / EXPERT, **arrays)
            write_json(folder / RECORDS, records)

        checkpoints.save(0, write)
        return _Trained(arrays, records)
    return _Trained(
        dict(read_arrays(slot / EXPERT, f"delete {slot}")), read_json_list(slot / RECORDS, f"delete {slot}")
    )


def _watched(
    episodes: Iterable[DemoEpisode], read: int, values: list[tuple[np.ndarray, np.ndarray]]
) -> Iterator[DemoEpisode]:
    """Passes episodes on and appends the ``read`` state numbers and the action numbers of each to ``values``."""
    for episode in episodes:
        values.append((episode.state[:, :read], episode.actions))
        yield episode


def _save(episode: DemoEpisode, folder: Path) -> None:
    np.savez_compressed(
        folder / DEMONSTRATION, **{name: np.asarray(value) for name, value in episode._asdict().items()}
    )


def _load(folder: Path) -> DemoEpisode:
    file = read_arrays(folder / DEMONSTRATION, f"delete {folder}")
    values: list[Any] = [file[name] for name in DemoEpisode._fields]
    return DemoEpisode(*(value if value.ndim else value.item() for value in values))


def _noted(
    episodes: Iterable[DemoEpisode], numbers: Sequence[int], facts: Facts, origins: list[dict[str, str | int]]
) -> Iterator[DemoEpisode]:
    """Passes episodes on, their actions as the simulator takes them, and appends the origin of each to ``origins``."""
    for number, recorded in zip(numbers, episodes, strict=True):
        episode, beyond = clipped(recorded, facts)
        origins.append(
            {
                "episode": int(number),
                "task": episode.task,
                "env_seed": episode.seed,
                "failed_attempts": episode.failures,
                "frames": len(episode.actions),
                "clipped_actions": beyond,
            }
        )
        yield episode
