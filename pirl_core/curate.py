"""Makes the few-shot dataset of an experiment: expert demonstrations in LeRobot v3 files."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from pirl_core.data.experts import Wish, demonstrations
from pirl_core.data.fewshot import select_episodes
from pirl_core.data.lerobot import DemoEpisode, write_dataset
from pirl_core.files import replace_folder, write_json
from pirl_core.params import Curate, Env

FPS = 80  # MetaWorld's control rate


def make_dataset(env: Env, curate: Curate, folder: Path, workers: int | None = None) -> None:
    """Writes ``folder`` whole or not at all; ``meta/curation.json`` tells where the episodes come from.

    Demonstration i of a task is the same whichever others are kept, so only the kept ones are made: keeping 5 of 50
    costs a tenth.
    """
    task_index = np.repeat(np.arange(len(env.tasks)), curate.episodes_per_task)
    kept = select_episodes(task_index, curate.keep_per_task, curate.keep_episodes)
    wishes = [Wish(env.tasks[task_index[e]], int(e) % curate.episodes_per_task) for e in kept]
    origins: list[dict[str, str | int]] = []
    with replace_folder(folder) as temporary:
        episodes = demonstrations(env, curate, wishes, workers)
        write_dataset(temporary, _noted(_shown(episodes, len(wishes)), kept, origins), list(env.cameras), FPS)
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


def _shown(episodes: Iterable[DemoEpisode], total: int) -> Iterator[DemoEpisode]:
    """Passes episodes on and prints a line of progress, at most one in five seconds."""
    begun = printed = time.monotonic()
    for done, episode in enumerate(episodes, 1):
        yield episode
        now = time.monotonic()
        if now - printed > 5 or done == total:
            left = (now - begun) / done * (total - done)
            print(
                f"[curate] {done}/{total} {episode.task} eta={int(left // 60)}:{int(left % 60):02d}",
                flush=True,
            )
            printed = now
