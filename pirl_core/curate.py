"""Makes the few-shot dataset of an experiment: expert demonstrations in LeRobot v3 files."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np

from pirl_core.data.demonstrate import Wish, demonstrations
from pirl_core.data.fewshot import select_episodes
from pirl_core.data.lerobot import DemoEpisode, write_dataset
from pirl_core.envs.benchmarks import facts_of
from pirl_core.files import replace_folder, write_json
from pirl_core.params import Curate, Env
from pirl_core.resume import Checkpoints
from pirl_core.track import Tracker

DEMONSTRATION = "demonstration.npz"


def make_dataset(
    env: Env, curate: Curate, folder: Path, checkpoints: Checkpoints, tracker: Tracker, workers: int | None = None
) -> None:
    """Writes ``folder`` whole or not at all; ``meta/curation.json`` tells where the episodes come from.

    Demonstration i of a task is the same whichever others are kept, so only the kept ones are made: keeping 5 of 50
    costs a tenth. Each is a checkpoint of its own, so an interrupted run makes only those that are missing.
    """
    task_index, kept = _kept(env, curate)
    wishes = [Wish(env.tasks[task_index[e]], int(e) % curate.episodes_per_task) for e in kept]
    origins: list[dict[str, str | int]] = []
    with replace_folder(folder) as temporary:
        episodes = _made(env, curate, wishes, checkpoints, tracker, workers)
        write_dataset(temporary, _noted(episodes, kept, origins), list(env.cameras), facts_of(env.benchmark))
        write_json(
            temporary / "meta/curation.json",
            {
                "seed": curate.seed,
                "action_noise": curate.action_noise,
                "episodes_available": len(task_index),
                "episodes_kept": len(kept),
                "failed_attempts": sum(int(origin["failed_attempts"]) for origin in origins),
                "episodes": origins,
            },
        )


def dataset_size(env: Env, curate: Curate) -> int:
    """Demonstrations that the dataset will hold."""
    return len(_kept(env, curate)[1])


def _kept(env: Env, curate: Curate) -> tuple[np.ndarray, np.ndarray]:
    """Task of each available demonstration, and the numbers of those kept."""
    task_index = np.repeat(np.arange(len(env.tasks)), curate.episodes_per_task)
    return task_index, select_episodes(task_index, curate.keep_per_task, curate.keep_episodes)


def _made(
    env: Env, curate: Curate, wishes: list[Wish], checkpoints: Checkpoints, tracker: Tracker, workers: int | None
) -> Iterator[DemoEpisode]:
    """Every wish's demonstration, in order: from its checkpoint, or from the expert."""
    found = [checkpoints.at(number, lambda text: tracker.warn(0, text)) for number in range(len(wishes))]
    missing = [wish for wish, slot in zip(wishes, found, strict=True) if slot is None]
    with closing(demonstrations(env, curate, missing, workers)) as fresh:
        for number, (wish, slot) in enumerate(zip(wishes, found, strict=True)):
            if slot is None:
                episode = next(fresh)
                checkpoints.save(number, partial(_save, episode))
            else:
                episode = _load(slot)
            tracker.progress(number + 1, wish.task)
            yield episode


def _save(episode: DemoEpisode, folder: Path) -> None:
    np.savez_compressed(
        folder / DEMONSTRATION, **{name: np.asarray(value) for name, value in episode._asdict().items()}
    )


def _load(folder: Path) -> DemoEpisode:
    with np.load(folder / DEMONSTRATION, allow_pickle=False) as file:
        values = [file[name] for name in DemoEpisode._fields]
    return DemoEpisode(*(value if value.ndim else value.item() for value in values))


def _noted(
    episodes: Iterable[DemoEpisode], ids: np.ndarray, origins: list[dict[str, str | int]]
) -> Iterator[DemoEpisode]:
    """Passes episodes on and appends the origin of each to ``origins``."""
    for index, episode in zip(ids, episodes, strict=True):
        origins.append(
            {
                "episode": int(index),
                "task": episode.task,
                "env_seed": episode.seed,
                "failed_attempts": episode.failures,
                "frames": len(episode.actions),
            }
        )
        yield episode
