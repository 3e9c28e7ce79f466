"""Videos of episodes already played: simulate the executed actions again and draw them."""

from collections.abc import Iterator

import numpy as np

from pirl_core.envs.benchmarks import Simulator, facts_of, open_simulator, settings_of
from pirl_core.params import Env
from pirl_core.types import Episode


def replay(env: Env, episode: Episode, actions: np.ndarray, fast: bool = True) -> Iterator[tuple[Simulator, bool]]:
    """The simulator at the start and after each of the actions (T, A), with whether the task has been solved.

    Simulation is deterministic, so this retraces the episode bit for bit. Stops at the episode's end. fast: made for
    the pictures of ``env.fast_render`` true.
    """
    simulator = open_simulator(settings_of(env)._replace(fast_render=fast), episode)
    simulator.reset(episode)
    yield simulator, False
    for action in actions:
        _, terminated, truncated = simulator.step(action)
        yield simulator, terminated
        if terminated or truncated:
            return


def render_episode(env: Env, episode: Episode, actions: np.ndarray, size: int, every: int, fast: bool) -> np.ndarray:
    """Frames (F, size, size, 3) uint8 of the first camera: the start, each ``every``-th step, and the last step.

    fast: drawn as the policy sees it, else in full quality. Without cameras, the benchmark's first one films.
    """
    camera = [*env.cameras, *facts_of(env.benchmark).cameras][0]
    frames = []
    step = 0
    last: Simulator | None = None
    for step, (simulator, _) in enumerate(replay(env, episode, actions, fast)):
        last = simulator
        if step % every == 0:
            frames.append(simulator.picture(camera, size, fast))
    if last is not None and step % every:
        frames.append(last.picture(camera, size, fast))
    return np.stack(frames)
