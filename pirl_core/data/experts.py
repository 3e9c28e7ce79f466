"""Demonstrations by MetaWorld's scripted policies (metaworld.policies), which read the full simulator state.

The executed action carries Gaussian noise, the recorded one does not: the data then shows how to recover from
off-path states (DART, Laskey et al. 2017, arXiv:1703.09327), which clean demonstrations never visit.
"""

import signal
import warnings
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from typing import Any, NamedTuple

import numpy as np
from metaworld.policies import ENV_POLICY_MAP

from pirl_core import seeds
from pirl_core.data.lerobot import DemoEpisode
from pirl_core.envs.metaworld import MetaWorldEnv
from pirl_core.envs.metaworld_tasks import find_task
from pirl_core.envs.render import Renderer
from pirl_core.envs.vector import worker_count
from pirl_core.errors import UserError, WorkerDied
from pirl_core.params import Curate, Env
from pirl_core.types import Episode

_NOISE = 2  # the simulator draws from streams 0 and 1 of an episode's seed


class Wish(NamedTuple):
    """A demonstration to make: number ``number`` of ``task``."""

    task: str
    number: int


def demonstrations(
    env: Env, curate: Curate, wishes: Sequence[Wish], workers: int | None = None
) -> Generator[DemoEpisode]:
    """One episode per wish, in that order; the number of worker processes (default: PIRL_WORKERS, or the processor
    count) changes nothing but the time.

    Raises UserError for an unknown task, or where an expert fails ``max_attempts_per_episode`` times at one episode.
    """
    for task in {wish.task for wish in wishes}:
        find_task(task)
    if not wishes:
        return
    count = worker_count(len(wishes)) if workers is None else workers
    successes, failures = 0, 0
    context = get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(count, context, _start, (env, curate, stop)) as pool:
        # Ctrl-C reaches the whole process group, but only this process shall answer it: children inherit the mask.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        episodes = pool.map(_make, wishes)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            for wish, episode in zip(wishes, episodes, strict=True):
                if episode is None:
                    raise UserError(
                        f"the expert of '{wish.task}' failed {curate.max_attempts_per_episode} times in a row (before: "
                        f"{successes} successes in {successes + failures} attempts at all tasks); raise curate."
                        "max_attempts_per_episode or env.episode_steps, lower curate.action_noise, or drop the task"
                    )
                successes, failures = successes + 1, failures + episode.failures
                yield episode
        except BrokenProcessPool:
            raise WorkerDied(
                "a process that made demonstrations ended on its own; if memory ran out, set PIRL_WORKERS lower"
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


class Demonstrator:
    """A simulator for the task at hand and a renderer: what a worker keeps from one demonstration to the next."""

    def __init__(self, env: Env, curate: Curate, stopped: Callable[[], bool] = lambda: False) -> None:
        self.env = env
        self.curate = curate
        self.stopped = stopped
        self.renderer = Renderer()
        self.slot: MetaWorldEnv | None = None

    def make(self, wish: Wish) -> DemoEpisode | None:
        """First success among the attempts that belong to this wish, or None. Their seeds: ``seeds.demo_seed``."""
        if self.slot is None or self.slot.task != wish.task:
            self.slot = MetaWorldEnv(wish.task, self.env.episode_steps, object_state=True)
        for failures in range(self.curate.max_attempts_per_episode):
            seed = seeds.demo_seed(self.curate.seed, wish.task, wish.number, failures)
            episode = self.attempt(self.slot, seed, failures)
            if episode is not None:
                return episode
        return None

    def attempt(self, slot: MetaWorldEnv, seed: int, failures: int) -> DemoEpisode | None:
        """The expert's episode up to and including its first step of success, or None if the time runs out before."""
        env = self.env
        expert: Any = ENV_POLICY_MAP[slot.task]()
        rng = np.random.default_rng([seed, _NOISE])
        slot.reset(Episode(slot.task, seed))
        images, states, actions, rewards = [], [], [], []
        terminated = truncated = False
        while not truncated and not self.stopped():
            state = slot.full_observation()
            action = np.clip(expert.get_action(state), -1.0, 1.0)
            noise = self.curate.action_noise * rng.standard_normal(len(action))
            images.append(self.renderer.frames(slot, list(env.cameras), env.image_size, env.fast_render))
            states.append(state.astype(np.float32))
            actions.append(action.astype(np.float32))
            reward, terminated, truncated = slot.step(np.clip(action + noise, -1.0, 1.0))
            rewards.append(np.float32(reward))
            if terminated:
                return DemoEpisode(
                    slot.task,
                    find_task(slot.task).instruction,
                    seed,
                    failures,
                    np.stack(images),
                    np.stack(states),
                    np.stack(actions),
                    np.stack(rewards),
                    np.arange(len(actions)) == len(actions) - 1,
                )
        return None


_worker: Demonstrator


def _start(env: Env, curate: Curate, stop: Event) -> None:
    global _worker
    warnings.filterwarnings("ignore", "Constant")  # experts ask for more than 1 and count on the clipping
    _worker = Demonstrator(env, curate, stop.is_set)


def _make(wish: Wish) -> DemoEpisode | None:
    return _worker.make(wish)
