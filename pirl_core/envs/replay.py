"""Videos of episodes already played: simulate the executed actions again and draw them."""

import functools
from collections.abc import Iterator

import numpy as np

from pirl_core.envs.metaworld import MetaWorldEnv
from pirl_core.envs.render import Renderer
from pirl_core.params import Env
from pirl_core.types import Episode

VIDEO_CAMERA = "corner2"
"""For policies that see no camera."""


@functools.cache
def _renderer() -> Renderer:
    return Renderer()


def replay(env: Env, episode: Episode, actions: np.ndarray) -> Iterator[tuple[MetaWorldEnv, bool]]:
    """The simulator at the start and after each of the actions (T, 4), with whether the task has been solved.

    Simulation is deterministic, so this retraces the episode bit for bit. Stops at the episode's end.
    """
    simulator = MetaWorldEnv(episode.task, env.episode_steps, env.object_state)
    simulator.reset(episode)
    yield simulator, False
    for action in actions:
        _, terminated, truncated = simulator.step(action)
        yield simulator, terminated
        if terminated or truncated:
            return


def render_episode(env: Env, episode: Episode, actions: np.ndarray, size: int, every: int, fast: bool) -> np.ndarray:
    """Frames (F, size, size, 3) uint8 of the first camera: the start, each ``every``-th step, and the last step.

    fast: drawn as the policy sees it, else in full quality.
    """
    cameras: list[str] = [*env.cameras[:1]] or [VIDEO_CAMERA]
    frames = []
    step = 0
    last: MetaWorldEnv | None = None
    for step, (simulator, _) in enumerate(replay(env, episode, actions)):
        last = simulator
        if step % every == 0:
            frames.append(_renderer().frames(simulator, cameras, size, fast=fast)[0])
    if last is not None and step % every:
        frames.append(_renderer().frames(last, cameras, size, fast=fast)[0])
    return np.stack(frames)
