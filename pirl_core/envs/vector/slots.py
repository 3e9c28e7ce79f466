"""Many episode slots over workers, stepped by whole action chunks.

Workers are processes of this machine, or of a cluster's machines (``cluster``). A lost one of this machine ends the
run, since it mostly means that memory ran out. A lost one of a cluster does not: an episode is a function of its start
and its actions, so another worker plays it up to where it was, and no number changes.

Axes: n slots of a call, C cameras, H W pixels, S state numbers, R executed actions of a chunk, A action
numbers.
"""

import sys
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any

import numpy as np

from pirl_core.envs.contract import Outcome
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector import cluster, processes
from pirl_core.envs.vector.processes import Worker, worker_count
from pirl_core.envs.vector.replay import Film, Take
from pirl_core.errors import WorkerDied
from pirl_core.facts import facts_of
from pirl_core.params.sections import Env
from pirl_core.readers import variables
from pirl_core.types import ChunkResult, DemoEpisode, Episode, Observation

MOST_LOSSES = 3
"""Of workers in a row that one episode may outlive: after that it is taken to be what ends them."""
NAMED = 3
"""Episodes that a message names."""
_NOBODY = -1


Message = Callable[[list[int]], tuple[str, Any]]
"""To a worker, of those rows of a call that its slots have."""


class _GoneError(Exception):
    """A worker was lost."""


class VectorEnv:
    """``num_envs`` slots. Any slot can play any task; results do not depend on the number of workers.

    groups: that a rollout lets the slots play in, one simulated while the policy decides for another.
    A context manager: leaving it ends the worker processes.
    """

    def __init__(self, env: Env, num_envs: int, workers: int | None = None, groups: int = 1):
        self._facts = facts_of(env.benchmark)
        self._settings = settings_of(env)
        self.num_envs = num_envs
        self.groups = groups
        # Of episodes that have begun: the episode, the worker that plays it, and the chunks so far while it runs.
        self._episodes: dict[int, Episode] = {}
        self._home: dict[int, int] = {}
        self._running: dict[int, list[np.ndarray]] = {}
        # Slots whose worker was lost, and how many were since the slot's last answer, or since a start (_NOBODY).
        self._behind: set[int] = set()
        self._losses: Counter[int] = Counter()
        self._workers: dict[int, Worker] = {}
        self._enlisted = 0
        most = workers or min(num_envs, variables.whole(variables.WORKERS) or num_envs)
        self._cluster = cluster.Cluster(self._settings, most) if variables.cluster() else None
        try:
            if self._cluster:
                self._enlist(self._cluster.first())
            else:
                count = worker_count(num_envs) if workers is None else min(workers, num_envs)
                # On a GPU the slots are rows of one simulation.
                count = 1 if self._settings.sim_backend == "gpu" else count
                self._enlist([processes.start(number) for number in range(count)])
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
        if self._cluster:
            self._enlist(self._cluster.joined())
        self._place(slots, episodes)
        images, state, told = self._ask(slots, lambda rows: ("reset", [(slots[row], episodes[row]) for row in rows]))
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
        if over := set(slots) - self._running.keys():
            raise RuntimeError(f"slots {sorted(over)}: step after the episode's end, or before a start; reset first")
        answers = self._ask(slots, lambda rows: ("step", ([slots[row] for row in rows], actions[rows])))
        outcome = Outcome(*answers)
        for slot, chunk, over in zip(slots, actions, outcome.terminated | outcome.truncated, strict=True):
            if over:
                del self._running[slot]
            elif self._cluster:
                self._running[slot].append(chunk.copy())
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
        seen: dict[int, set[str]] = {}

        def begin(worker: int) -> None:
            # What is held for drawing a task costs as much as some frames, so a worker stays with the tasks it has.
            tasks = seen.setdefault(worker, set())
            number = min(waiting, key=lambda number: (takes[number].episode.task not in tasks, number))
            waiting.remove(number)
            at_work[worker] = number
            # A lost worker is told with its task: it plays in the slot of its own number.
            self._home[worker], self._episodes[worker] = worker, takes[number].episode
            tasks.add(takes[number].episode.task)
            try:
                self._send(worker, (command, (takes[number], *options)))
            except _GoneError as gone:
                lose(worker, gone)

        def lose(worker: int, gone: _GoneError) -> None:
            number = at_work.pop(worker)
            waiting.append(number)
            self._lost(worker, [number], gone)

        while waiting or at_work:
            self._drop_ended(at_work)
            for worker in [worker for worker in self._workers if worker not in at_work][: len(waiting)]:
                begin(worker)
            ready = wait([self._workers[worker].pipe for worker in at_work], cluster.ANSWER_SECONDS)
            late = not ready and self._cluster
            for worker in [worker for worker in at_work if late or self._workers[worker].pipe in ready]:
                try:
                    if late:
                        raise _GoneError("gave no answer in time")
                    reply = self._receive(worker)
                except _GoneError as gone:
                    lose(worker, gone)
                    continue
                number = at_work.pop(worker)
                self._losses.pop(number, None)
                yield number, self._answer(worker, reply)

    def close(self) -> None:
        """End the workers; safe to call twice."""
        for worker in self._workers.values():
            worker.pipe.close()
        for worker in self._workers.values():
            if worker.process:
                processes.end(worker.process)
        self._workers = {}
        if self._cluster:
            self._cluster.close()

    def __enter__(self) -> "VectorEnv":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Nobody waits for the chunks that they are at, which on a busy machine take seconds.
            for worker in self._workers.values():
                if worker.process:
                    worker.process.kill()
        self.close()

    def _check(self, slots: Sequence[int]) -> None:
        if len(set(slots)) != len(slots) or not all(0 <= slot < self.num_envs for slot in slots) or not slots:
            raise ValueError(f"slots {list(slots)} must be distinct, at least one, and in [0, {self.num_envs})")
        if not self._workers:
            raise RuntimeError("the environment is closed")

    def _enlist(self, workers: list[Worker]) -> None:
        """Workers that join begin with the settings; one that is lost at once has no episode yet."""
        numbers = range(self._enlisted, self._enlisted + len(workers))
        self._enlisted += len(workers)
        self._workers |= zip(numbers, workers, strict=True)
        for ask in (lambda number: self._send(number, ("start", (self._settings, self.num_envs))),
                    lambda number: self._answer(number, self._receive(number))):  # fmt: skip
            for number in [number for number in numbers if number in self._workers]:
                try:
                    ask(number)
                except _GoneError as gone:
                    self._lost(number, [_NOBODY], gone)
        if self._workers.keys() & set(numbers):
            self._losses.pop(_NOBODY, None)

    def _place(self, slots: Sequence[int], episodes: Sequence[Episode]) -> None:
        """Choose the worker of each new episode, so that each has as many of every task: their steps differ in cost,
        and a call lasts as long as the slowest worker. An episode that still runs holds its simulator, so its slot
        stays where it is."""
        others = self._running.keys() - set(slots)
        by_task = Counter((self._home[slot], self._episodes[slot].task) for slot in others)
        total = Counter(self._home[slot] for slot in others)
        for slot, episode in zip(slots, episodes, strict=True):
            if slot not in self._running:
                self._home[slot] = min(
                    self._workers, key=lambda worker: (by_task[worker, episode.task], total[worker], worker)
                )
            by_task[self._home[slot], episode.task] += 1
            total[self._home[slot]] += 1
            self._episodes[slot] = episode
            self._running[slot] = []
            self._behind.discard(slot)

    def _ask(self, slots: Sequence[int], message: Message) -> list[np.ndarray]:
        """Columns of the workers' answers, in the order of ``slots``. Where a worker is lost, another one is asked."""
        order: list[int] = []
        answers: list[tuple[np.ndarray, ...]] = []
        rows = list(range(len(slots)))
        while rows:
            self._drop_ended({})
            while behind := [row for row in rows if slots[row] in self._behind]:
                for where, _ in self._round(slots, behind, lambda where: ("catch_up", self._played(slots, where))):
                    self._behind.difference_update(slots[row] for row in where)
            answered = self._round(slots, rows, message)
            for where, answer in answered:
                order += where
                answers.append(answer)
            done = {row for where, _ in answered for row in where}
            rows = [row for row in rows if row not in done]
        for slot in slots:
            self._losses.pop(slot, None)
        places = np.argsort(order)
        return [np.concatenate(parts)[places] for parts in zip(*answers, strict=True)]

    def _played(self, slots: Sequence[int], rows: list[int]) -> list[tuple[int, Episode, list[np.ndarray]]]:
        return [(slot, self._episodes[slot], self._running[slot]) for slot in (slots[row] for row in rows)]

    def _round(self, slots: Sequence[int], rows: list[int], message: Message) -> list[tuple[list[int], Any]]:
        """Send the workers of these rows of ``slots`` one message each, then collect the answers, with the rows that
        each is about; a lost worker's are left out."""
        shares: dict[int, list[int]] = {}
        for row in rows:
            shares.setdefault(self._home[slots[row]], []).append(row)
        gone: dict[int, _GoneError] = {}
        replies: dict[int, tuple[str, Any]] = {}
        for worker, where in shares.items():
            try:
                self._send(worker, message(where))
            except _GoneError as error:
                gone[worker] = error
        for worker in [worker for worker in shares if worker not in gone]:
            try:
                replies[worker] = self._receive(worker)
            except _GoneError as error:
                gone[worker] = error
        for worker, reason in gone.items():
            self._lost(worker, [slots[row] for row in shares[worker]], reason)
        return [(shares[worker], self._answer(worker, reply)) for worker, reply in replies.items()]

    def _send(self, number: int, message: tuple[str, Any]) -> None:
        try:
            self._workers[number].pipe.send(message)
        except OSError as error:
            raise _GoneError(str(error)) from error

    def _receive(self, number: int) -> tuple[str, Any]:
        try:
            reply: tuple[str, Any] = self._workers[number].pipe.recv()
            return reply
        except BlockingIOError as error:
            raise _GoneError(f"gave no answer for {cluster.ANSWER_SECONDS} s") from error
        except (EOFError, OSError) as error:
            raise _GoneError("was lost") from error

    def _answer(self, number: int, reply: tuple[str, Any]) -> Any:
        return processes.read_answer(self._workers[number].name, reply)

    def _lost(self, number: int, slots: list[int], gone: _GoneError) -> None:
        """Give the episodes of a cluster's worker to others. slots: those that it was asked for.

        Raises WorkerDied for a worker of this machine, and where too many were lost with one episode.
        """
        name, _, process = self._workers[number]
        at = f"while it ran {_named(self._episodes[slot] for slot, home in self._home.items() if home == number)}"
        if process:
            ending = processes.ending(process)
            self.close()
            raise WorkerDied(
                f"{name} {ending} {at}; if memory ran out, lower num_envs or set {variables.WORKERS}"
            ) from gone
        self._losses.update(slots)
        if any(self._losses[slot] > MOST_LOSSES for slot in slots):
            self.close()
            raise WorkerDied(
                f"{name} {gone} {at}, the {MOST_LOSSES + 1}th in a row; look at `ray logs` of its machine"
            ) from gone
        print(f"{name} {gone} {at}; others go on", file=sys.stderr, flush=True)
        self._drop(number)

    def _drop_ended(self, at_work: Container[int]) -> None:
        """A machine is mostly lost with all of its workers: none that is known to be gone is asked for anything. Those
        that are at work are left to whoever waits for them."""
        for number, worker in list(self._workers.items()):
            if number not in at_work and not worker.process and cluster.ended(worker):
                self._drop(number)

    def _drop(self, number: int) -> None:
        """Its episodes go to other workers of the cluster."""
        assert self._cluster is not None
        worker = self._workers.pop(number)
        worker.pipe.close()
        self._cluster.give_up(worker)
        self._enlist(self._cluster.joined(0.0 if self._workers else cluster.JOIN_SECONDS))
        load = Counter(self._home[slot] for slot in self._running)
        for slot in [slot for slot in self._running if self._home[slot] == number]:
            self._home[slot] = min(self._workers, key=lambda other: (load[other], other))
            load[self._home[slot]] += 1
            self._behind.add(slot)


def _named(episodes: Iterable[Episode]) -> str:
    """The first few, by task and seed of the start."""
    names = sorted({f"{episode.task} from seed {episode.seed}" for episode in episodes})
    return ", ".join(names[:NAMED] + [f"{len(names) - NAMED} more"] * (len(names) > NAMED)) or "no task"
