"""One iteration of RL as a discrete-event model: what ranks, workers and cores do, in the order of the code.

A rank is ``rl.rollout.play``: the policy decides for the slots of a group, each worker is sent one message and steps
its slots one after another, the answers are read in the order of the questions. The vector environment answers one call
at a time: with two groups, one is simulated while the other is decided for. Then all ranks meet, tell each other their
decisions, and learn minibatch by minibatch in step. Validation, checkpoints and what a run does once are left out.

Axes: R ranks, W workers of a rank, G groups, M minibatches.
"""

import math
from collections import deque
from functools import partial
from typing import NamedTuple

import numpy as np

from pirl_core import seeds
from pirl_core.plan.events import Clock, Cores, Free, Process, Then, speed

STEPS = ("simulate", "stragglers", "message", "infer", "ranks", "account", "update", "all-reduce")
"""What an iteration's time is told as. simulate: the trainer waits for its workers, as long as they take in the mean;
stragglers: and until the slowest has answered. message: it packs, sends, reads. infer: encodes and denoises. ranks:
waits for the slowest rank. account: advantages, of the decisions of all ranks. update: gradients and the optimiser."""


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
    from scipy import stats  # commands that simulate nothing shall not wait for it

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


def rollout(costs: Costs, layout: Layout, work: Work, episodes: np.ndarray, seed: int, number: int) -> np.ndarray:
    """Seconds (R, STEPS) of each rank until one episode of each slot has ended. episodes: (R,), 0 of a rank that has
    no more."""
    clock = Clock()
    homes = -(-layout.ranks // layout.together)
    own, apart = ([_station(clock, costs, layout) for _ in range(count)] for count in (homes, layout.machines))
    ranks = []
    for rank in range(layout.ranks):
        if not episodes[rank]:
            continue
        home, first = own[rank // layout.together], rank * layout.workers
        workers = range(first, first + layout.workers)
        places = [home, *(apart[worker % len(apart)] if apart else home for worker in workers)]
        player = _Rank(clock, costs, layout, work, places, int(episodes[rank]), _number(seed, number, rank))
        ranks.append((rank, player))
        clock.start(player.play())
    clock.run()
    spent = np.zeros((layout.ranks, len(STEPS)))
    for rank, player in ranks:
        spent[rank] = [player.spent[step] for step in STEPS]
    return spent


def _station(clock: Clock, costs: Costs, layout: Layout) -> Cores | Free:
    """The cores of a machine."""
    machines = layout.machines or -(-layout.ranks // layout.together)
    jobs = -(-layout.ranks * layout.workers // machines) + (0 if layout.accelerated else layout.together)
    enough = costs.crowding == 1 and jobs <= layout.cores
    return Free(clock) if enough else Cores(clock, layout.cores, costs.crowding)


def _at_once(layout: Layout, costs: Costs) -> float:
    """Speed of ranks that all compute: of accelerators, or of the cores that they share."""
    ranks = min(layout.ranks, layout.together)
    return 1.0 if layout.accelerated else speed(ranks, layout.cores, costs.crowding)


def _number(seed: int, what: str | int, rank: int) -> int:
    """32 bits for the library's own generator: this too simulates episodes of training."""
    return seeds.simulator_seed(seeds.train_seed(seed, f"forecast {what}", rank))


class _Group:
    """Slots that are asked together. counts: of each worker that has some of them, by its number."""

    def __init__(self, counts: dict[int, int], chunks: np.ndarray) -> None:
        self.counts = counts
        self.slots = sum(counts.values())
        self.left = len(chunks)
        self._chunks = iter(chunks)
        self.spent: dict[str, float] = {}
        self._ready = False
        self._then: Then | None = None

    def chunk(self) -> list[float]:
        """Seconds of the next one, of each worker."""
        self.left -= 1
        self._ready = False
        seconds: list[float] = next(self._chunks).tolist()
        return seconds

    def end(self, spent: dict[str, float]) -> None:
        """Its call has been answered. spent: the seconds of that."""
        self._ready, self.spent = True, spent
        if self._then is not None:
            then, self._then = self._then, None
            then()

    def answered(self, then: Then) -> None:
        """To be yielded."""
        if self._ready:
            then()
        else:
            self._then = then


class _Rank:
    """A policy, and a vector environment; ``spent``: what the policy's time goes into."""

    def __init__(
        self,
        clock: Clock,
        costs: Costs,
        layout: Layout,
        work: Work,
        places: list[Cores | Free],
        slots: int,
        number: int,
    ) -> None:
        """places: of the rank, and of its workers."""
        self.spent = dict.fromkeys(STEPS, 0.0)
        self._clock, self._costs, self._work, self._home = clock, costs, work, places[0]
        self._accelerated = layout.accelerated
        self._workers = places[1:]
        self._calls: deque[Process] = deque()
        self._groups: list[_Group] = []
        homes = np.arange(slots) % len(self._workers)
        for part in np.array_split(homes, min(layout.groups, slots)):
            counts = {int(worker): int(n) for worker, n in zip(*np.unique(part, return_counts=True), strict=True)}
            chunks = shares(costs, list(counts.values()), work.decisions, number + len(self._groups))
            self._groups.append(_Group(counts, chunks))

    def play(self) -> Process:
        """One episode of each slot."""
        for group in self._groups:
            self._submit(group, [count * self._costs.reset for count in group.counts.values()])
        coming = deque(self._groups)
        while coming:
            group = coming.popleft()
            begun = self._clock.now
            yield group.answered
            waited, call = self._clock.now - begun, sum(group.spent.values())
            for step, seconds in group.spent.items():
                self.spent[step] += waited * seconds / call if call else 0.0
            if group.left or self._work.bootstrap:
                yield from self._decide(group.slots)
            if group.left:
                self._submit(group, group.chunk())
                coming.append(group)

    def _decide(self, slots: int) -> Process:
        seconds = self._costs.infer + slots * self._costs.infer_row
        begun = self._clock.now
        yield self._clock.until(begun + seconds) if self._accelerated else self._home.job(seconds)
        self.spent["infer"] += self._clock.now - begun

    def _submit(self, group: _Group, seconds: list[float]) -> None:
        """To the vector environment, which answers one call after another. seconds: of each worker's share."""
        self._calls.append(self._call(group, seconds))
        if len(self._calls) == 1:
            self._clock.start(self._calls[0])

    def _call(self, group: _Group, seconds: list[float]) -> Process:
        """Send each worker its message, wait, and read the answers, one after another."""
        way, begun = self._costs.latency / 2, self._clock.now
        message = [(self._costs.message + slots * self._costs.row) / 2 for slots in group.counts.values()]
        came = begun + np.cumsum(message) + way
        answers = _Answers(self._clock, len(message))
        for number, (worker, work) in enumerate(zip(group.counts, seconds, strict=True)):
            job = partial(self._workers[worker].run, work, partial(answers.note, number))
            self._clock.at(float(came[number]), job)
        yield answers.all
        time = begun + sum(message)
        for answered, reading in zip(answers.times, message, strict=True):
            time = max(time, answered + way) + reading
        yield self._clock.until(time)
        spans = np.array(answers.times) - came
        waited = time - begun - 2 * sum(message)
        alike = float(spans.mean() / spans.max()) if spans.max() > 0 else 1.0
        group.end({"message": 2 * sum(message), "simulate": waited * alike, "stragglers": waited * (1 - alike)})
        self._calls.popleft()
        if self._calls:
            self._clock.start(self._calls[0])


class _Answers:
    """When each worker has answered."""

    def __init__(self, clock: Clock, count: int) -> None:
        self.times = [math.nan] * count
        self._left = count
        self._clock = clock
        self._then: Then | None = None

    def note(self, number: int) -> None:
        self.times[number] = self._clock.now
        self._left -= 1
        if not self._left and self._then is not None:
            self._then()

    def all(self, then: Then) -> None:
        """To be yielded, before the first."""
        self._then = then


def shares(costs: Costs, counts: list[int], decisions: int, number: int) -> np.ndarray:
    """Seconds (decisions, W) that workers with so many slots take. A slot's are gamma distributed, so those of n are.

    number: 32 bits that all of them depend on.
    """
    from scipy import stats

    shape = (decisions, len(counts))
    if not costs.spread or not costs.chunk:
        return np.broadcast_to(np.array(counts) * costs.chunk, shape)
    scale = costs.chunk * costs.spread**2
    drawn = stats.gamma.rvs(np.array(counts) / costs.spread**2, scale=scale, size=shape, random_state=number % 2**32)
    return np.asarray(drawn)
