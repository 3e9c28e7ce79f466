"""The frozen protocol: fixed episodes, chunks without a draw of their own (``players``), one row an episode.

Noise is keyed by (episode seed, decision) alone, in streams of its own, so a policy's outcome on an episode does not
depend on what else is evaluated, in which order, or on how many workers.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pirl_core import seeds
from pirl_core.evaluation.players import Player
from pirl_core.facts import Score
from pirl_core.params.sections import Env, Evaluate, Split
from pirl_core.readers.archives import read_arrays
from pirl_core.rl.rollout import ChunkEnv, play
from pirl_core.training.ranks import agreed, gathered, join
from pirl_core.training.resume import Checkpoints
from pirl_core.training.track import Tracker
from pirl_core.types import Episode, Observation

OUTCOMES = "outcomes.npz"


class Outcome(NamedTuple):
    """What came of one episode. success: that it was terminated, which on a benchmark that counts returns says no more.
    actions: (steps, D) as executed, which replays it."""

    episode: Episode
    success: bool
    steps: int
    reward: float
    actions: np.ndarray


class Turn(NamedTuple):
    """One set of episodes and who plays it. player: called where some are left to play, so that of two policies only
    the one whose turn it is takes memory."""

    label: str
    episodes: list[Episode]
    player: Callable[[], Player]


def split_episodes(env: Env, evaluate: Evaluate, name: str) -> list[Episode]:
    """The episodes of one split, task by task."""
    split = evaluate.splits[name]
    tasks = env.tasks if split.tasks is None else split.tasks
    return [
        Episode(task, seeds.evaluation_seed(evaluate.seed, task, index), split.shift, index)
        for task in tasks
        for index in range(split.episodes_per_task)
    ]


def validation_episodes(env: Env, seed: int, per_task: int) -> list[Episode]:
    """Episodes for choosing a checkpoint; evaluation never sees their seeds (and their starts: ``starts.py``)."""
    return watched_episodes(env, seed, Split(tasks=None, shift=env.shift, episodes_per_task=per_task))


def watched_episodes(env: Env, seed: int, split: Split) -> list[Episode]:
    """The same for a set of tasks under a shift of its own, to be looked at only."""
    tasks = env.tasks if split.tasks is None else split.tasks
    return [
        Episode(task, seeds.validation_seed(seed, task, index), split.shift, index)
        for task in tasks
        for index in range(split.episodes_per_task)
    ]


def run_episodes(player: Player, envs: ChunkEnv, episodes: list[Episode]) -> list[Outcome]:
    """Ranks share the episodes; every one gets all outcomes."""
    here = join()
    mine = list(range(here.rank, len(episodes), here.size))
    outcomes = gathered(list(zip(mine, _play_share(player, envs, [episodes[index] for index in mine]), strict=True)))
    return [outcome for _, outcome in sorted(outcomes, key=lambda pair: pair[0])]


def _play_share(player: Player, envs: ChunkEnv, episodes: list[Episode]) -> list[Outcome]:
    if not episodes:
        return []
    chunks: list[list[np.ndarray]] = [[] for _ in episodes]

    def decide(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
        keys = [(episodes[e].seed, int(d)) for e, d in zip(episode, decision, strict=True)]
        actions = player(observation, keys)
        for row, index in enumerate(episode):
            chunks[index].append(actions[row])
        return actions

    steps = play(envs, episodes, decide, None)
    success, length = np.zeros(len(episodes), bool), np.zeros(len(episodes), np.int64)
    reward = np.zeros(len(episodes))
    for step in steps:
        # A chunk may be cut short in the middle of an episode too.
        chunks[step.episode][step.decision] = chunks[step.episode][step.decision][: step.steps]
        success[step.episode] |= step.terminated
        length[step.episode] += step.steps
        reward[step.episode] += step.reward
    return [
        Outcome(episode, bool(success[i]), int(length[i]), float(reward[i]), np.concatenate(chunks[i]))
        for i, episode in enumerate(episodes)
    ]


BLOCK = 4
"""Episodes of an evaluation are played in blocks of so many times ``num_envs``; checkpoints fall between blocks."""


def play_turns(
    turns: list[Turn],
    envs: ChunkEnv,
    done: list[Outcome],
    num_envs: int,
    checkpoints: Checkpoints,
    tracker: Tracker,
    score: Score = "success",
) -> dict[str, list[Outcome]]:
    """Outcomes by label. done: of the first episodes, from an interrupted run; whole blocks.

    Blocks do not mix sets, and are the same whether a run was interrupted or not: an outcome depends on what else is
    in the batch by rounding.
    """
    outcomes = {}
    played = 0
    for label, episodes, player in turns:
        outcomes[label] = done[played : played + len(episodes)]
        playing = player() if len(outcomes[label]) < len(episodes) else None
        while playing and len(outcomes[label]) < len(episodes):
            first = len(outcomes[label])
            outcomes[label] += run_episodes(playing, envs, episodes[first : first + BLOCK * num_envs])
            everything = [outcome for part in outcomes.values() for outcome in part]
            tracker.progress(len(everything), metrics={f"charts/{score}": mean_score(everything, score)})
            if join().main and checkpoints.due():
                checkpoints.save(len(everything), partial(save_outcomes, everything))
                tracker.checkpointed(len(everything))
        played += len(episodes)
    return outcomes


def resumed(checkpoints: Checkpoints, turns: list[Turn], label: str) -> list[Outcome]:
    """Outcomes that an interrupted run of the same evaluation left; [] when there are none. Equal on all ranks."""
    found = agreed(checkpoints.latest(lambda text: print(label, text, flush=True)) if join().main else None)
    episodes = [episode for turn in turns for episode in turn.episodes]
    return load_outcomes(found[1], episodes[: found[0]]) if found else []


def save_outcomes(outcomes: list[Outcome], folder: Path) -> None:
    """The numbers of finished episodes; which episodes they were follows from the parameters."""
    np.savez(
        folder / OUTCOMES,
        success=np.array([outcome.success for outcome in outcomes]),
        steps=np.array([outcome.steps for outcome in outcomes]),
        reward=np.array([outcome.reward for outcome in outcomes]),
        actions=np.concatenate([outcome.actions for outcome in outcomes]),
    )


def load_outcomes(folder: Path, episodes: list[Episode]) -> list[Outcome]:
    """What ``save_outcomes`` wrote for ``episodes``."""
    file = read_arrays(folder / OUTCOMES, f"delete {folder}")
    parts = np.split(file["actions"], file["steps"].cumsum()[:-1])
    columns = (file["success"].tolist(), file["steps"].tolist(), file["reward"].tolist(), parts)
    return [Outcome(*row) for row in zip(episodes, *columns, strict=True)]


def mean_score(outcomes: list[Outcome], score: Score) -> float:
    """The success rate, or the mean return."""
    return float(np.mean([outcome.reward if score == "return" else outcome.success for outcome in outcomes]))
