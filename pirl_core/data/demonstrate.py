"""Demonstrations by a benchmark's expert, in worker processes.

The executed action carries Gaussian noise, the recorded one does not: the data then shows how to recover from
off-path states (DART, Laskey et al. 2017, arXiv:1703.09327), which clean demonstrations never visit.
"""

import subprocess
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import NamedTuple, cast

import numpy as np

from pirl_core import seeds
from pirl_core.data.lerobot import DemoEpisode
from pirl_core.envs.contract import EpisodeOver, Simulator
from pirl_core.envs.opening import expert_of, open_simulator, settings_of
from pirl_core.envs.vector.processes import (
    WORKER_ENVIRONMENT,
    answered,
    be_child,
    end,
    ending,
    read_answer,
    start_python,
    worker_count,
)
from pirl_core.errors import UserError, WorkerDied
from pirl_core.facts import facts_of
from pirl_core.params.sections import Curate, Env
from pirl_core.readers import variables
from pirl_core.types import Episode

Helper = tuple[subprocess.Popen[bytes], Connection]
NAME = "a process that made demonstrations"
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
    with _open_workers(count) as helpers, closing(_made(helpers, (env, curate, trained), wishes)) as episodes:
        for wish, episode in zip(wishes, episodes, strict=True):
            if episode is None:
                raise UserError(
                    f"the expert of '{wish.task}' failed {curate.max_attempts_per_episode} times in a row (before: "
                    f"{successes} successes in {successes + failures} attempts at all tasks); raise curate."
                    "max_attempts_per_episode or env.episode_steps, lower curate.action_noise, or drop the task"
                )
            successes, failures = successes + 1, failures + episode.failures
            yield episode


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


@contextmanager
def _open_workers(count: int) -> Generator[list[Helper]]:
    """Processes that make demonstrations. They stop when their pipes close, amid an episode too."""
    helpers = [
        start_python("from pirl_core.data.demonstrate import main; main()", WORKER_ENVIRONMENT) for _ in range(count)
    ]
    try:
        yield helpers
    finally:
        for _, pipe in helpers:
            pipe.close()
        for process, _ in helpers:
            end(process)


def _made(
    helpers: Sequence[Helper], start: tuple[Env, Curate, Trained | None], wishes: Sequence[Wish]
) -> Generator[DemoEpisode | None]:
    """What `Demonstrator.make` makes of each wish, in order; a worker gets its next wish with its last one's answer.

    Raises WorkerDied where a process was lost. A pipe with two ends tells that at once, also amid an answer; a pool's
    queue and locks, which all processes share, would wait for what the dead one held.
    """
    processes = {pipe: process for process, pipe in helpers}
    left = iter(enumerate(wishes))
    busy: dict[Connection, int] = {}
    early: dict[int, DemoEpisode | None] = {}

    @contextmanager
    def talking_to(pipe: Connection) -> Generator[None]:
        try:
            yield
        except (EOFError, OSError):
            how = ending(processes[pipe])
            raise WorkerDied(f"{NAME} {how}; if memory ran out, set {variables.WORKERS} lower") from None

    def give(pipe: Connection) -> None:
        if following := next(left, None):
            busy[pipe], wish = following
            pipe.send(wish)

    for pipe in processes:
        with talking_to(pipe):
            pipe.send(start)
            give(pipe)
    for number in range(len(wishes)):
        while number not in early:
            for pipe in cast("list[Connection]", wait(list(busy))):
                with talking_to(pipe):
                    early[busy.pop(pipe)] = read_answer(NAME, pipe.recv())
                    give(pipe)
        yield early.pop(number)


def _serve(pipe: Connection) -> None:
    """Answer each wish until the pipe closes. Nothing comes while one is being fulfilled, so a pipe that has something
    to say then has closed."""
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        env, curate, trained = pipe.recv()
        demonstrator = Demonstrator(env, curate, pipe.poll, trained)
        while True:
            wish = pipe.recv()
            pipe.send(answered(partial(demonstrator.make, wish)))


def main() -> None:
    be_child(_serve)
