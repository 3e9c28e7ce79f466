"""Time that passes in events, and cores that jobs share: what the model of an iteration stands on.

A process is a generator. What it yields is a call that starts something, and is given what to call when that has ended.
"""

from collections.abc import Callable, Iterator
from functools import partial
from heapq import heappop, heappush
from itertools import count

Then = Callable[[], None]
Start = Callable[[Then], None]
Process = Iterator[Start]


class Clock:
    """Calls what was asked for, in the order of time; at one time in the order in which it was asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Then]] = []
        self._number = count()

    def at(self, time: float, call: Then) -> None:
        heappush(self._events, (time, next(self._number), call))

    def until(self, time: float) -> Start:
        """To be yielded: the process goes on then."""
        return partial(self.at, max(time, self.now))

    def start(self, process: Process) -> None:
        def go_on() -> None:
            begin = next(process, None)
            if begin is not None:
                begin(go_on)

        go_on()

    def run(self) -> None:
        while self._events:
            self.now, _, call = heappop(self._events)
            call()


class Free:
    """Cores enough for all: no job waits for another, or slows it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def job(self, seconds: float) -> Start:
        """To be yielded: work of so many seconds."""
        return partial(self.run, seconds)

    def run(self, seconds: float, then: Then) -> None:
        self._clock.at(self._clock.now + seconds, then)


class Cores:
    """The cores of a machine, which share their time evenly among jobs of one thread (processor sharing).

    count: of cores. crowding: how much longer a job takes when every core is busy than when it is alone; between,
    linear. One clock for all: what a job has been served is the same since it came, so the next to end is the top of a
    heap.
    """

    def __init__(self, clock: Clock, count_: int, crowding: float) -> None:
        self._clock = clock
        self._count = count_
        self._crowding = crowding
        self._jobs: list[tuple[float, int, Then]] = []
        self._number = count()
        self._served = self._since = 0.0
        self._version = 0

    def job(self, seconds: float) -> Start:
        """To be yielded: work of so many seconds of a free core."""
        return partial(self.run, seconds)

    def run(self, seconds: float, then: Then) -> None:
        self._serve()
        heappush(self._jobs, (self._served + seconds, next(self._number), then))
        self._plan()

    def _serve(self) -> None:
        self._served += (self._clock.now - self._since) * speed(len(self._jobs), self._count, self._crowding)
        self._since = self._clock.now

    def _plan(self) -> None:
        # Who comes or goes changes the speed of all: what was planned before is void.
        self._version += 1
        if self._jobs:
            left = (self._jobs[0][0] - self._served) / speed(len(self._jobs), self._count, self._crowding)
            self._clock.at(self._clock.now + max(0.0, left), partial(self._end, self._version))

    def _end(self, version: int) -> None:
        if version == self._version:
            self._serve()
            then = heappop(self._jobs)[2]
            self._plan()
            then()


def speed(jobs: int, cores: int, crowding: float) -> float:
    """Seconds of a free core that each of so many jobs gets in one of the clock."""
    busy = min(jobs, cores)
    slower = 1 + (crowding - 1) * (busy - 1) / (cores - 1) if busy > 1 else 1.0
    return 1.0 if jobs == 0 else busy / jobs / slower
