"""Episodes already played: their actions are simulated again, to be drawn as a video or kept frame by frame.

Axes: T frames of an episode, A action numbers.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from pirl_core.envs.contract import Settings, Simulator
from pirl_core.envs.opening import open_simulator
from pirl_core.facts import facts_of
from pirl_core.types import DemoEpisode, Episode


def replay(settings: Settings, episode: Episode, actions: np.ndarray) -> Iterator[tuple[Simulator, bool]]:
    """The simulator at the start and after each of the actions (T, A), with whether the task has been solved.

    A CPU retraces the episode bit for bit; a GPU need not, as its sums depend on what else it simulates. Stops at the
    episode's end.
    """
    simulator = open_simulator(settings, episode)
    simulator.reset(episode)
    yield simulator, False
    for action in actions:
        _, terminated, truncated = simulator.step(action)
        yield simulator, terminated
        if terminated or truncated:
            return


class Take(NamedTuple):
    """An episode that was played, with the actions (T, A) that were executed."""

    episode: Episode
    actions: np.ndarray


class Film(NamedTuple):
    """frames: (F, size, size, 3) uint8. success: whether the task was solved at the end."""

    frames: np.ndarray
    success: bool


def render_episode(settings: Settings, take: Take, size: int, every: int, fast: bool) -> Film:
    """What the first camera sees: the start, each ``every``-th step, and the last step.

    fast: drawn as the policy sees it, else as people like to see it. Without cameras, the benchmark's first one films.
    """
    camera = [*settings.cameras, *facts_of(settings.benchmark).cameras][0]
    settings = settings._replace(cameras=[camera], image_size=size, fast_render=fast)
    frames = []
    step, success = 0, False
    last: Simulator | None = None
    try:
        for step, (simulator, solved) in enumerate(replay(settings, *take)):
            last, success = simulator, solved
            if step % every == 0:
                frames.append(simulator.picture(camera, size, fast))
        if last is not None and step % every:
            frames.append(last.picture(camera, size, fast))
    finally:
        if last is not None:
            last.close()
    return Film(np.stack(frames), success)


def record_episode(settings: Settings, take: Take) -> list[DemoEpisode]:
    """What the policy saw and did at each step, and the simulator's whole state; an episode for each sentence that it
    was given, of which all but the last were solved."""
    simulator = open_simulator(settings._replace(object_state=True), take.episode)
    shown: list[DemoEpisode] = []
    try:
        simulator.reset(take.episode)
        frames: list[tuple[np.ndarray, ...]] = []
        for number, action in enumerate(take.actions, 1):
            asked, images, state = simulator.instruction(), simulator.images(), simulator.state()
            reward, solved, late = simulator.step(action)
            frames.append((images, state, np.asarray(action, np.float32), np.asarray(reward, np.float32)))
            over = solved or late or number == len(take.actions)
            if over or simulator.instruction() != asked:
                seen, states, actions, rewards = (np.stack(column) for column in zip(*frames, strict=True))
                done = np.arange(len(frames)) == (len(frames) - 1 if solved or not over else -1)
                task, seed = take.episode.task, take.episode.seed
                shown.append(DemoEpisode(task, asked, seed, 0, seen, states, actions, rewards, done))
                frames = []
            if over:
                break
    finally:
        simulator.close()
    return shown
