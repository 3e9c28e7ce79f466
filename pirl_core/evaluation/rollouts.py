"""Episodes that a policy played, as LeRobot v3 datasets: to be looked at, or to be learnt from again.

Axes: n slots of a call, R executed actions of a chunk, A action numbers.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pirl_core.data.lerobot import DemoEpisode, write_dataset
from pirl_core.data.recorded import clipped
from pirl_core.envs.vector.replay import Take
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import Outcome
from pirl_core.facts import Score, facts_in
from pirl_core.params.sections import Env, Record
from pirl_core.rl.rollout import ChunkEnv
from pirl_core.training.track import Tracker
from pirl_core.types import ChunkResult, Episode, Observation


class Heard:
    """A vector environment that remembers the episodes played in it."""

    def __init__(self, envs: ChunkEnv) -> None:
        self.num_envs, self.groups = envs.num_envs, envs.groups
        self._envs = envs
        self._playing: dict[int, tuple[Episode, list[np.ndarray], list[float]]] = {}
        self._over: list[Outcome] = []

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        self._playing |= {slot: (episode, [], []) for slot, episode in zip(slots, episodes, strict=True)}
        return self._envs.reset(slots, episodes)

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        result = self._envs.step(slots, actions)
        for row, slot in enumerate(slots):
            episode, chunks, rewards = self._playing[slot]
            chunks.append(actions[row, : result.steps[row]])
            rewards.append(float(result.reward[row]))
            if result.terminated[row] or result.truncated[row]:
                played = np.concatenate(chunks)
                self._over.append(Outcome(episode, bool(result.terminated[row]), len(played), sum(rewards), played))
        return result

    def taken(self) -> list[Outcome]:
        """Of the episodes that have ended since it was asked last."""
        over, self._over = self._over, []
        return over


def write_rollouts(
    envs: VectorEnv, env: Env, outcomes: list[Outcome], which: Record, folder: Path, tracker: Tracker
) -> int:
    """Plays the outcomes' actions again and writes them frame by frame into the new ``folder``; returns how many
    episodes, and writes nothing where there is none.

    An episode in which the sentence changes is one for each sentence, so that 'success' keeps the subtasks that were
    solved. One that ends otherwise when it is simulated again, as on a GPU it may, is left out with a word.
    """
    wanted = [outcome for outcome in outcomes if which == "all" or outcome.success or outcome.reward > 0]
    shown = _shown(envs, env, wanted, which, tracker)
    first = next(shown, None)
    if first is None:
        return 0
    folder.mkdir(parents=True)
    written = 0

    def counted() -> Iterator[DemoEpisode]:
        nonlocal written
        for episode in (first, *shown):
            written += 1
            yield episode

    write_dataset(folder, counted(), list(env.cameras), facts_in(env))
    return written


def kept_line(kept: int, outcomes: list[Outcome], which: Record, score: Score) -> str:
    """What was kept of the outcomes, and how many of these failed, where episodes can: whoever learns from the folder
    takes each for a demonstration."""
    failed = sum(not outcome.success for outcome in outcomes) if (which, score) == ("all", "success") else 0
    line = f"{kept} of {len(outcomes)} episodes kept"
    return line + (f"; {failed} failed, and count as demonstrations where this is curate.dataset" if failed else "")


def _shown(
    envs: VectorEnv, env: Env, outcomes: list[Outcome], which: Record, tracker: Tracker
) -> Iterator[DemoEpisode]:
    """In the outcomes' order, whichever worker is ready first."""
    facts = facts_in(env)
    ready: dict[int, list[DemoEpisode]] = {}
    takes = [Take(outcome.episode, outcome.actions) for outcome in outcomes]
    following, lost = 0, 0
    for done, (number, episodes) in enumerate(envs.record(takes), 1):
        ready[number] = episodes
        tracker.aside("recording", done, len(takes))
        while following in ready:
            parts = ready.pop(following)
            if bool(parts[-1].success[-1]) != outcomes[following].success:
                lost += 1
                parts = []
            following += 1
            for part in parts:
                if which == "all" or part.success[-1]:
                    yield clipped(part._replace(success=part.success & (env.score == "success")), facts)[0]
    if lost:
        print(f"{lost} of {len(takes)} episodes ended otherwise when simulated again, and were not kept", flush=True)
