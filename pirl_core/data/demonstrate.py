"""Demonstrations by a benchmark's expert, in worker processes.

The executed action carries Gaussian noise, the recorded one does not: the data then shows how to recover from
off-path states (DART, Laskey et al. 2017, arXiv:1703.09327), which clean demonstrations never visit.
"""

import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.synchronize import Event
from typing import NamedTuple

import numpy as np

from pirl_core import seeds
from pirl_core.data.lerobot import DemoEpisode
from pirl_core.envs.contract import EpisodeOver, Simulator
from pirl_core.envs.opening import expert_of, open_simulator, settings_of
from pirl_core.envs.vector.processes import worker_count
from pirl_core.errors import UserError, WorkerDied
from pirl_core.facts import facts_of
from pirl_core.params.sections import Curate, Env
from pirl_core.types import Episode

Trained = dict[str, np.ndarray]
"""What ``opening.train_expert`` made."""


class Wish(NamedTuple):
    """A demonstration to make: number ``number`` of ``task`` in the domain."""

    task: str
    number: int
    domain: seeds.Domain = "sim"


def demonstrations(
    env: Env, curate: Curate, wishes: Sequence[Wish], workers: int | None = None, trained: Trained | None = None
) -> Generator[DemoEpisode]:
    """One episode per wish, in that order, by the benchmark's script or by the expert that was ``trained``; the number
    of worker processes (default: PIRL_WORKERS, or the processor count) changes nothing but the time.

    Raises UserError for an unknown task, or where an expert fails ``max_attempts_per_episode`` times at one episode.
    """
    for task in {wish.task for wish in wishes}:
        facts_of(env.benchmark).task(task)
    if not wishes:
        return
    count = worker_count(len(wishes)) if workers is None else workers
    successes, failures = 0, 0
    context = get_context("spawn")
    stop = context.Event()
    with ProcessPoolExecutor(count, context, _start, (env, curate, stop, trained)) as pool:
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
    """A simulator that fits the task at hand: what a worker keeps from one demonstration to the next."""

    def __init__(
        self, env: Env, curate: Curate, stopped: Callable[[], bool] = lambda: False, trained: Trained | None = None
    ) -> None:
        self.env = env
        self.trained = trained
        self.curate = curate
        self.stopped = stopped
        self.simulator: Simulator | None = None

    def make(self, wish: Wish) -> DemoEpisode | None:
        """First success among the attempts that belong to this wish, or None. Their seeds: ``seeds.demo_seed``."""
        for failures in range(self.curate.max_attempts_per_episode):
            seed = seeds.demo_seed(self.curate.seed, wish.task, wish.number, failures, wish.domain)
            episode = Episode(wish.task, seed, self.env.shift, wish.number)
            if self.simulator is None or not self.simulator.fits(episode):
                if self.simulator is not None:
                    self.simulator.close()
                wanted = settings_of(self.env)._replace(object_state=True, sim_backend="cpu")
                self.simulator = open_simulator(wanted, episode)
            shown = self.attempt(self.simulator, episode, failures)
            if shown is not None:
                return shown
        return None

    def attempt(self, simulator: Simulator, episode: Episode, failures: int) -> DemoEpisode | None:
        """The expert's episode up to and including its first step of success, or None if it ends before; where returns
        count, whole.

        ``curate.still_frames`` follow, in which the world stands still as it is then and the arm is told to stay.
        """
        rng = seeds.generator("demonstration", episode.seed)
        simulator.reset(episode)
        instruction = simulator.instruction()
        images, states, actions, rewards = [], [], [], []
        solved = False

        def act(action: np.ndarray) -> None:
            nonlocal solved
            noise = self.curate.action_noise * rng.standard_normal(len(action))
            images.append(simulator.images())
            states.append(simulator.state())
            actions.append(action.astype(np.float32))
            reward, solved, late = simulator.step(action + noise)
            rewards.append(np.float32(reward))
            if solved or late or self.stopped():
                raise EpisodeOver

        with suppress(EpisodeOver):
            expert_of(self.env.world, self.trained)(simulator, act)
        has_success = self.env.score == "success"
        if has_success and not solved:
            return None
        steps = len(actions)
        still = np.append(np.zeros(len(actions[-1]) - 1, np.float32), actions[-1][-1])  # the gripper stays as it is
        for _ in range(self.curate.still_frames):
            images.append(simulator.images())
            states.append(simulator.state())
            actions.append(still)
            rewards.append(np.float32(0))
        return DemoEpisode(
            episode.task,
            instruction,
            episode.seed,
            failures,
            np.stack(images),
            np.stack(states),
            np.stack(actions),
            np.stack(rewards),
            (np.arange(len(actions)) >= steps - 1) & has_success,
        )


_worker: Demonstrator


def _start(env: Env, curate: Curate, stop: Event, trained: Trained | None) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = Demonstrator(env, curate, stop.is_set, trained)


def _end_with_parent() -> None:
    """A killed parent reads no result: whoever is writing one would wait for ever, and the others for it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(wish: Wish) -> DemoEpisode | None:
    return _worker.make(wish)
