"""One iteration of RL as a discrete-event model: what ranks, workers and cores do, in the order in which the code does it.

A rank is ``rl.rollout.play``: the policy decides for all slots (of a group), the trainer sends each worker one message,
a worker steps its slots one after another, the answers are read in the order of the questions, and what has ended is
started anew. With two groups one is simulated while the other is decided for. Then all ranks meet, tell each other
their decisions, and learn minibatch by minibatch in step. Validation, checkpoints and what a run does once are left out.

Axes: R ranks, W workers of a rank, G groups, M minibatches.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy import stats

from pirl_core import seeds
from pirl_core.plan.events import Clock, Cores, Process, Start, Then, speed

STEPS = ("simulate", "stragglers", "message", "infer", "ranks", "account", "update", "all-reduce")
"""What an iteration's time is told as. simulate: the trainer waits for its workers, as long as they take in the mean;
stragglers: and until the slowest has answered. message: it packs, sends, reads. infer: encodes and denoises. ranks:
waits for the slowest rank. account: advantages, over the decisions of all ranks. update: gradients and the optimiser."""


class Costs(NamedTuple):
    """Seconds on a core, or an accelerator, that has nothing else to do; what a cost's table has beside it, in units.

    reset: of a slot. chunk: of a slot's chunk of actions, with its observation. spread: std of a chunk's time over its
    mean. crowding: how much longer a core takes where all of its machine are busy. message, row: of the trainer, for a
    worker's question and answer, and for each slot in it. latency: of the way, both ways together. infer, infer_row:
    of a decision for a batch, and for each slot in it. account: for each decision of all ranks. update: of a
    minibatch's part; update_row: of each decision in it. hop: of a message of one rank to the next in an all-reduce.
    bandwidth: bytes a second of a rank's link.
    """

    reset: float
    chunk: float
    spread: float
    crowding: float
    message: float
    row: float
    latency: float
    infer: float
    infer_row: float
    account: float
    update: float
    update_row: float
    hop: float
    bandwidth: float


class Layout(NamedTuple):
    """slots, workers: of each rank. groups: of slots that take turns. together: ranks on one machine. machines: that
    simulate, beside those of the ranks; 0: the ranks' own do. cores: of each machine that simulates. accelerated:
    policies compute on accelerators of their own, else on those cores too."""

    ranks: int
    slots: int
    workers: int
    cores: int
    groups: int = 1
    together: int = 1
    machines: int = 0
    accelerated: bool = True


class Work(NamedTuple):
    """episodes: of all ranks, each of so many decisions, whose chunks have so many simulator steps. bootstrap: whether
    the value of an episode's last observation is asked for. epochs, minibatch, micro: of the update, rows of all ranks
    and at most of one at once (None: all). gradient: bytes that the ranks add up."""

    episodes: int
    decisions: int
    steps: int
    bootstrap: bool
    epochs: int
    minibatch: int
    micro: int | None
    gradient: float


class Forecast(NamedTuple):
    """seconds: of an iteration. sps: simulator steps a second, `charts/SPS`. shares: of the seconds, by STEPS, the mean
    of the ranks; they add up to 1."""

    seconds: float
    sps: float
    shares: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The greatest share."""
        return max(self.shares, key=self.shares.__getitem__)


def ring(size: float, ranks: int, hop: float, bandwidth: float) -> float:
    """Seconds of an all-reduce of ``size`` bytes in a ring: 2(n−1) messages, each of an n-th (Patarasuk and Yuan 2009,
    Sec. 3). An upper bound where gradients are sent while others are still computed."""
    return 2 * (ranks - 1) * (hop + size / ranks / bandwidth)


def forecast(costs: Costs, layout: Layout, work: Work, seed: int) -> Forecast:
    """What an iteration takes.

    A rank's slots play one episode each, then the next: all whole rounds of episodes are taken to be as the first is.
    """
    ranks = layout.ranks
    counts = np.array([len(range(rank, work.episodes, ranks)) for rank in range(ranks)])
    spent = np.zeros((ranks, len(STEPS)))
    rounds, rest = divmod(counts.max(), layout.slots)
    if rounds:
        spent += rounds * rollout(costs, layout, work, np.minimum(counts, layout.slots), seed, 0)
    if rest:
        spent += rollout(costs, layout, work, np.maximum(counts - rounds * layout.slots, 0), seed, 1)
    own = spent.sum(axis=1)
    spent[:, STEPS.index("ranks")] += own.max() - own
    decisions = counts * work.decisions
    spent[:, STEPS.index("account")] = costs.account * decisions.sum() / _at_once(layout, costs)
    update, wait, exchange = learn(costs, layout, work, decisions, seed)
    spent[:, STEPS.index("update")] = update
    spent[:, STEPS.index("ranks")] += wait
    spent[:, STEPS.index("all-reduce")] = exchange
    seconds = float(spent[0].sum())
    shares = dict(zip(STEPS, (spent.mean(axis=0) / seconds).tolist(), strict=True))
    return Forecast(seconds, float(decisions.sum() * work.steps / seconds), shares)


def learn(
    costs: Costs, layout: Layout, work: Work, decisions: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Seconds of computing (R,), of waiting for the slowest rank (R,), and of adding up, in an update. decisions: (R,).

    Each minibatch is drawn from the decisions of all ranks, so that a rank has more of it or less.
    """
    total = int(decisions.sum())
    sizes = [len(part) for part in np.array_split(np.arange(total), -(-total // work.minibatch))] * work.epochs
    rows = stats.multivariate_hypergeom.rvs(
        np.tile(decisions, (len(sizes), 1)), sizes, random_state=_number(seed, "minibatch", 0)
    ).reshape(len(sizes), -1)
    parts = np.ceil(rows.max(axis=1) / (work.micro or max(1, rows.max())))
    own = (costs.update * parts[:, None] + costs.update_row * rows) / _at_once(layout, costs)
    slowest = own.max(axis=1, keepdims=True)
    # Two numbers go round before each step, the minibatch's means and its greatest ratio, then the gradients.
    exchange = sum(ring(size, layout.ranks, costs.hop, costs.bandwidth) for size in (0, 0, work.gradient))
    return own.sum(axis=0), (slowest - own).sum(axis=0), len(sizes) * exchange


def rollout(
    costs: Costs, layout: Layout, work: Work, episodes: np.ndarray, seed: int, number: int
) -> np.ndarray:
    """Seconds (R, STEPS) of each rank until one episode of each slot has ended. episodes: (R,), 0 of a rank that has
    no more."""
    clock = Clock()
    homes = -(-layout.ranks // layout.together)
    own = [Cores(clock, layout.cores, costs.crowding) for _ in range(homes)]
    apart = [Cores(clock, layout.cores, costs.crowding) for _ in range(layout.machines)]
    ranks = []
    for rank in range(layout.ranks):
        if not episodes[rank]:
            continue
        home = own[rank // layout.together]
        places = [
            apart[(rank * layout.workers + worker) % len(apart)] if apart else home for worker in range(layout.workers)
        ]
        player = _Rank(clock, costs, layout, work, home, places, int(episodes[rank]), _number(seed, number, rank))
        ranks.append((rank, player))
        clock.start(player.play())
    clock.run()
    spent = np.zeros((layout.ranks, len(STEPS)))
    for rank, player in ranks:
        spent[rank] = [player.spent[step] for step in STEPS]
    return spent


def _at_once(layout: Layout, costs: Costs) -> float:
    """Speed of ranks that all compute: of accelerators, or of the cores that they share."""
    ranks = min(layout.ranks, layout.together)
    return 1.0 if layout.accelerated else speed(ranks, layout.cores, costs.crowding)


def _number(seed: int, what: str | int, rank: int) -> int:
    """32 bits for the library's own generator: this too simulates episodes of training."""
    return seeds.simulator_seed(seeds.train_seed(seed, f"forecast {what}", rank))


class _Worker:
    """One process: questions that come while it works wait."""

    def __init__(self, cores: Cores) -> None:
        self._cores = cores
        self._waiting: deque[tuple[float, Then]] = deque()
        self._busy = False

    def ask(self, seconds: float, then: Then) -> None:
        self._waiting.append((seconds, then))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if self._busy:
            seconds, then = self._waiting.popleft()
            self._cores.run(seconds, partial(self._answer, then))

    def _answer(self, then: Then) -> None:
        then()
        self._next()


class _Group:
    """Slots that are asked together. counts: of each worker that has some of them, by its number."""

    def __init__(self, counts: dict[int, int]) -> None:
        self.counts = counts
        self.slots = sum(counts.values())
        self.asked: dict[int, float] = {}
        self.answered: dict[int, float] = {}
        self._then: Then | None = None

    def answer(self, worker: int, time: float) -> None:
        self.answered[worker] = time
        if len(self.answered) == len(self.counts) and self._then is not None:
            then, self._then = self._then, None
            then()

    def wait(self, then: Then) -> None:
        """Goes on when the last worker has answered."""
        if len(self.answered) == len(self.counts):
            then()
        else:
            self._then = then


class _Rank:
    """The trainer of one rank, its workers, and what it spends its time on."""

    def __init__(
        self,
        clock: Clock,
        costs: Costs,
        layout: Layout,
        work: Work,
        home: Cores,
        places: list[Cores],
        slots: int,
        number: int,
    ) -> None:
        self.spent = dict.fromkeys(STEPS, 0.0)
        self._clock, self._costs, self._layout, self._work, self._home = clock, costs, layout, work, home
        self._workers = [_Worker(cores) for cores in places]
        self._groups = []
        first = 0
        for part in np.array_split(np.arange(slots), min(layout.groups, slots)):
            homes = np.bincount((first + np.arange(len(part))) % len(places), minlength=len(places))
            self._groups.append(_Group({worker: int(n) for worker, n in enumerate(homes) if n}))
            first += len(part)
        self._times = [iter(self._chunks(group, number + place)) for place, group in enumerate(self._groups)]

    def _chunks(self, group: _Group, number: int) -> np.ndarray:
        """Seconds (decisions, W) of the workers' shares. A slot's are gamma distributed, so those of n are too."""
        mean, spread = self._costs.chunk, self._costs.spread
        counts = np.array(list(group.counts.values()), np.float64)
        shape = (self._work.decisions, len(counts))
        if not spread or not mean:
            return np.broadcast_to(counts * mean, shape)
        drawn = stats.gamma.rvs(counts / spread**2, size=shape, random_state=number % 2**32)
        return np.asarray(drawn * mean * spread**2)

    def play(self) -> Process:
        """One episode of each slot."""
        for group in self._groups:
            yield from self._ask(group, [count * self._costs.reset for count in group.counts.values()])
        for decision in range(self._work.decisions + 1):
            for group, times in zip(self._groups, self._times, strict=True):
                yield from self._read(group)
                if decision < self._work.decisions:
                    yield from self._decide(group)
                    yield from self._ask(group, next(times).tolist())
                elif self._work.bootstrap:
                    yield from self._decide(group)

    def _decide(self, group: _Group) -> Process:
        seconds = self._costs.infer + group.slots * self._costs.infer_row
        begun = self._clock.now
        yield self._clock.until(begun + seconds) if self._layout.accelerated else self._home.job(seconds)
        self.spent["infer"] += self._clock.now - begun

    def _half(self, slots: int) -> float:
        """The trainer's seconds of a question, or of an answer."""
        return (self._costs.message + slots * self._costs.row) / 2

    def _ask(self, group: _Group, seconds: list[float]) -> Process:
        """Send each worker its message, one after another."""
        begun = time = self._clock.now
        group.answered = {}
        for (worker, slots), work in zip(group.counts.items(), seconds, strict=True):
            time += self._half(slots)
            arrival = time + self._costs.latency / 2
            group.asked[worker] = arrival
            self._clock.at(arrival, partial(self._workers[worker].ask, work, self._answered(group, worker)))
        yield self._clock.until(time)
        self.spent["message"] += time - begun

    def _answered(self, group: _Group, worker: int) -> Then:
        return lambda: group.answer(worker, self._clock.now)

    def _read(self, group: _Group) -> Process:
        """Wait for the answers, and read them in the order of the questions."""
        begun = time = self._clock.now
        yield group.wait
        for worker, slots in group.counts.items():
            time = max(time, group.answered[worker] + self._costs.latency / 2) + self._half(slots)
        yield self._clock.until(time)
        reading = sum(map(self._half, group.counts.values()))
        spans = [group.answered[worker] - group.asked[worker] for worker in group.counts]
        waited = time - begun - reading
        mean = sum(spans) / len(spans) / max(spans) if max(spans) > 0 else 1.0
        self.spent["message"] += reading
        self.spent["simulate"] += waited * mean
        self.spent["stragglers"] += waited * (1 - mean)
