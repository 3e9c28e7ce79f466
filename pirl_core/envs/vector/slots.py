"""Many episode slots over worker processes, stepped by whole action chunks.

Axes: n slots of a call, C cameras, H W pixels, S state numbers, R executed actions of a chunk, A action
numbers.
"""

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

import numpy as np

from pirl_core.envs.contract import Outcome
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector.replay import Film, Take
from pirl_core.errors import UserError, WorkerDied
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env
from pirl_core.readers import variables
from pirl_core.types import ChunkResult, DemoEpisode, Episode, Observation

WORKER_ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "LP_NUM_THREADS": "0",
    # Where glibc raises this by itself, after the first freed simulator of 20 MB, the heap grows twice as large and has
    # holes.
    "MALLOC_MMAP_THRESHOLD_": str(2**20),
}
_GRACE_SECONDS = 5.0


class _Worker(NamedTuple):
    process: subprocess.Popen[bytes]
    pipe: Connection


def worker_count(num_envs: int) -> int:
    """PIRL_WORKERS, or the processor count, at most one per slot. Raises UserError unless it is a positive integer."""
    return min(num_envs, variables.whole(variables.WORKERS) or len(os.sched_getaffinity(0)))


class VectorEnv:
    """``num_envs`` slots. Any slot can play any task; results do not depend on the number of workers.

    A context manager: leaving it ends the worker processes.
    """

    def __init__(self, env: Env, num_envs: int, workers: int | None = None):
        self._facts = facts_of(env.benchmark)
        self._settings = settings_of(env)
        self.num_envs = num_envs
        # Of episodes that have begun: the task, the worker that plays it, and whether it still runs.
        self._tasks: dict[int, str] = {}
        self._home: dict[int, int] = {}
        self._running: set[int] = set()
        count = worker_count(num_envs) if workers is None else min(workers, num_envs)
        if self._settings.sim_backend == "gpu":
            count = 1  # the slots are rows of one simulation
        self._workers: list[_Worker] = []
        try:
            for _ in range(count):
                self._workers.append(_start_worker())
            self._call(dict.fromkeys(range(count), ("start", (self._settings, num_envs))))
        except BaseException:
            self.close()
            raise

    def reset(self, slots: Sequence[int], episodes: Sequence[Episode]) -> Observation:
        """Start ``episodes[i]`` in ``slots[i]``; rows of the result follow ``slots``.

        Raises UserError for an unknown task or shift, WorkerDied when a process was lost.
        """
        for episode in episodes:
            self._facts.task(episode.task)
        self._check(slots)
        self._place(slots, [episode.task for episode in episodes])
        rows = self._rows(slots)
        answers = self._call(
            {worker: ("reset", [(slots[i], episodes[i]) for i in where]) for worker, where in rows.items()}
        )
        order = np.argsort(np.concatenate([rows[worker] for worker in answers]))
        images, state, told = (np.concatenate(parts)[order] for parts in zip(*answers.values(), strict=True))
        return Observation(images, state, told.tolist())

    def step(self, slots: Sequence[int], actions: np.ndarray) -> ChunkResult:
        """Execute ``actions`` (n, R, A) in ``slots``; an episode that ends early ignores the rest of its chunk.

        An ended slot must be reset before its next step.
        """
        if actions.ndim != 3 or len(actions) != len(slots):
            raise ValueError(
                f"actions have shape {actions.shape}, expected ({len(slots)}, R, {len(self._facts.action)})"
            )
        self._check(slots)
        if not self._home.keys() >= set(slots):
            raise ValueError(f"slots {sorted(set(slots) - self._home.keys())} have no episode yet; reset them first")
        rows = self._rows(slots)
        answers = self._call(
            {worker: ("step", ([slots[i] for i in where], actions[where])) for worker, where in rows.items()}
        )
        order = np.argsort(np.concatenate([rows[worker] for worker in answers]))
        outcome = Outcome(*(np.concatenate(parts)[order] for parts in zip(*answers.values(), strict=True)))
        ended = outcome.terminated | outcome.truncated
        self._running.difference_update(slot for slot, over in zip(slots, ended, strict=True) if over)
        observation = Observation(outcome.images, outcome.state, outcome.instruction.tolist())
        return ChunkResult(observation, outcome.reward, outcome.terminated, outcome.truncated, outcome.steps)

    def film(self, takes: Sequence[Take], size: int, every: int) -> Iterator[tuple[int, Film]]:
        """Films of episodes that were played, each with its place in ``takes``, in the order in which they get ready.

        Gives up the episodes that run, whose memory films may need. To be read to its end, before anything else.
        """
        return self._replayed("film", takes, size, every)

    def record(self, takes: Sequence[Take]) -> Iterator[tuple[int, list[DemoEpisode]]]:
        """The same frame by frame, as the policy saw them, an episode for each sentence that it was given."""
        return self._replayed("record", takes)

    def _replayed(self, command: str, takes: Sequence[Take], *options: int) -> Iterator[tuple[int, Any]]:
        self._running.clear()
        self._home.clear()
        waiting = list(range(len(takes)))
        at_work: dict[int, int] = {}
        seen: list[set[str]] = [set() for _ in self._workers]

        def begin(worker: int) -> None:
            # What is held for drawing a task costs as much as some frames, so a worker stays with the tasks it has.
            number = min(waiting, key=lambda number: (takes[number].episode.task not in seen[worker], number))
            waiting.remove(number)
            at_work[worker] = number
            # A lost worker is told with its task: it plays in the slot of its own number.
            self._home[worker], self._tasks[worker] = worker, takes[number].episode.task
            seen[worker].add(takes[number].episode.task)
            self._send(worker, (command, (takes[number], *options)))

        for worker in range(min(len(self._workers), len(takes))):
            begin(worker)
        while at_work:
            ready = wait([self._workers[worker].pipe for worker in at_work])
            for worker in [worker for worker in at_work if self._workers[worker].pipe in ready]:
                number, answer = at_work.pop(worker), self._answer(worker, self._receive(worker))
                if waiting:
                    begin(worker)
                yield number, answer

    def close(self) -> None:
        """End the worker processes; safe to call twice."""
        for worker in self._workers:
            worker.pipe.close()
        for worker in self._workers:
            try:
                worker.process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()
        self._workers = []

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Nobody waits for the chunks that they are at, which on a busy machine take seconds.
            for worker in self._workers:
                worker.process.kill()
        self.close()

    def _check(self, slots: Sequence[int]) -> None:
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.num_envs for slot in slots) or not slots:
            raise ValueError(f"slots {list(slots)} must be distinct, at least one, and in [0, {self.num_envs})")
        if not self._workers:
            raise RuntimeError("the environment is closed")

    def _place(self, slots: Sequence[int], tasks: Sequence[str]) -> None:
        """Choose the worker of each new episode, so that each has as many of every task: their steps differ in cost,
        and a call lasts as long as the slowest worker. An episode that still runs holds its simulator, so its slot
        stays where it is."""
        by_task = Counter((self._home[slot], self._tasks[slot]) for slot in self._running.difference(slots))
        total = Counter(self._home[slot] for slot in self._running.difference(slots))
        for slot, task in zip(slots, tasks, strict=True):
            if slot not in self._running:
                self._home[slot] = min(
                    range(len(self._workers)), key=lambda worker: (by_task[worker, task], total[worker], worker)
                )
            by_task[self._home[slot], task] += 1
            total[self._home[slot]] += 1
            self._tasks[slot] = task
            self._running.add(slot)

    def _rows(self, slots: Sequence[int]) -> dict[int, list[int]]:
        """Rows of this call by worker."""
        rows: dict[int, list[int]] = {}
        for row, slot in enumerate(slots):
            rows.setdefault(self._home[slot], []).append(row)
        return rows

    def _call(self, messages: dict[int, tuple[str, Any]]) -> dict[int, Any]:
        """Send every worker its message, then collect the answers."""
        for index, message in messages.items():
            self._send(index, message)
        replies = {index: self._receive(index) for index in messages}
        return {index: self._answer(index, reply) for index, reply in replies.items()}

    def _send(self, index: int, message: tuple[str, Any]) -> None:
        try:
            self._workers[index].pipe.send(message)
        except OSError:
            self._lost(index)

    def _receive(self, index: int) -> tuple[str, Any]:
        try:
            reply: tuple[str, Any] = self._workers[index].pipe.recv()
            return reply
        except (EOFError, OSError):
            self._lost(index)

    def _answer(self, index: int, reply: tuple[str, Any]) -> Any:
        status, answer = reply
        if status == "user_error":
            raise UserError(answer)
        if status == "error":
            raise RuntimeError(f"environment worker {index} failed:\n{answer}")
        return answer

    def _lost(self, index: int) -> NoReturn:
        code = self._workers[index].process.wait()
        ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        tasks = sorted({self._tasks[slot] for slot, home in self._home.items() if home == index})
        self.close()
        raise WorkerDied(
            f"environment worker {index} {ending} while it ran {', '.join(tasks) or 'no task'};"
            f" if memory ran out, lower num_envs or set {variables.WORKERS}"
        )


def _start_worker() -> _Worker:
    # Not multiprocessing.Process: its children import the parent's main module, and torch with it.
    parent, child = Pipe()
    root = str(Path(__file__).resolve().parents[3])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    process = subprocess.Popen(
        [sys.executable, "-c", "from pirl_core.envs.vector.worker import main; main()", str(child.fileno())],
        pass_fds=[child.fileno()],
        env={**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
    )
    child.close()
    return _Worker(process, parent)
