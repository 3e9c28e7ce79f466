"""The model's twin: time goes by in equal ticks, and each tick everybody does what they can; no events, no heap.

Axes: R ranks, W workers of a rank.
"""

import numpy as np

from pirl_core.plan.events import speed
from pirl_core.plan.iteration import Costs, Layout, Work, shares

NIL = 1e-9
"""What rounding leaves of a time that is over."""


class Rank:
    """One rank with one group. Its state is what it does now, and what is left of that."""

    def __init__(self, costs: Costs, layout: Layout, work: Work, slots: int, number: int) -> None:
        counts = np.bincount(np.arange(slots) % layout.workers, minlength=layout.workers)
        self.counts = counts[counts > 0].tolist()
        self.costs, self.slots = costs, slots
        self.rounds = [
            [count * costs.reset for count in self.counts],
            *shares(costs, self.counts, work.decisions, number).tolist(),
        ]
        self.half = [(costs.message + count * costs.row) / 2 for count in self.counts]
        self.doing, self.left = "send", 0.0
        self.ended: float | None = None
        self.send()

    def send(self) -> None:
        self.doing, self.left = "send", sum(self.half)
        before = np.cumsum(self.half).tolist()
        # Each worker: until its message arrives, then its work, then the answer's way.
        way = self.costs.latency / 2
        self.jobs = [[at + way, work, way] for at, work in zip(before, self.rounds.pop(0), strict=True)]
        self.reading = list(self.half)

    def working(self) -> int:
        return sum(arrive <= NIL < work for arrive, work, _ in self.jobs)

    def computing(self) -> bool:
        return self.doing == "infer"

    def tick(self, now: float, dt: float, pace: float, computes_at: float) -> None:
        for job in self.jobs:
            stage = next((place for place in range(3) if job[place] > NIL), None)
            if stage is not None:
                job[stage] -= dt * (pace if stage == 1 else 1.0)
        if self.doing == "send":
            self.left -= dt
            if self.left <= NIL:
                self.doing = "read"
        elif self.doing == "read":
            place = len(self.half) - len(self.reading)
            if all(part <= NIL for part in self.jobs[place]):
                self.reading[0] -= dt
                if self.reading[0] <= NIL:
                    self.reading.pop(0)
            if not self.reading:
                if self.rounds:
                    self.doing, self.left = "infer", self.costs.infer + self.slots * self.costs.infer_row
                else:
                    self.doing, self.ended = "done", now
        elif self.doing == "infer":
            self.left -= dt * computes_at
            if self.left <= NIL:
                self.send()


def rollout(costs: Costs, layout: Layout, work: Work, slots: list[int], numbers: list[int], dt: float) -> list[float]:
    """Seconds of each rank; all ranks and their workers are on one machine."""
    ranks = [Rank(costs, layout, work, *each) for each in zip(slots, numbers, strict=True)]
    now = 0.0
    while any(rank.ended is None for rank in ranks):
        jobs = sum(rank.working() for rank in ranks)
        jobs += 0 if layout.accelerated else sum(rank.computing() for rank in ranks)
        pace = speed(max(1, jobs), layout.cores, costs.crowding)
        now += dt
        for rank in ranks:
            if rank.ended is None:
                rank.tick(now, dt, pace, 1.0 if layout.accelerated else pace)
    return [rank.ended or 0.0 for rank in ranks]
