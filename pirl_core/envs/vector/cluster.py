"""Workers on other machines, which Ray places (``PIRL_CLUSTER=ray``), as ``slots`` sees them.

A process of its own talks to Ray (``placing``): Ray ends a program whose cluster has lost its head, and a training
shall outlive that. Workers come back by a connection of their own, each with the run's token, so a message takes no
other way than to a process of this machine but the network. Who joins, when and where changes no number.
"""

import hmac
import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from multiprocessing.connection import Connection
from subprocess import Popen

from pirl_core.envs.assets import ASSETS
from pirl_core.envs.contract import Settings
from pirl_core.envs.vector.placing import RESOURCE, Placed, last_line, piped
from pirl_core.envs.vector.processes import Worker, end, start_python
from pirl_core.envs.vector.world import packages_of, world_of
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.readers import variables

ANSWER_SECONDS = 600
"""The longest that a worker may take for one message; then its episodes are played elsewhere."""
JOIN_SECONDS = 600
"""The longest that a run without any worker waits for one."""
MORE_SECONDS = 60
"""The longest that it waits for the others once there is one."""
_HELLO_SECONDS = 10
_TELL_SECONDS = 10
_AGAIN_SECONDS = 5.0


class Cluster:
    """Who places the workers, and where they join.

    Raises UserError where Ray is not installed, or cannot be reached for ``JOIN_SECONDS``.
    """

    def __init__(self, settings: Settings, wanted: int):
        if settings.sim_backend == "gpu":
            raise UserError(
                f"{variables.CLUSTER} = 'ray' with env.sim_backend 'gpu': a lost GPU's episodes cannot be played again"
                f" to the bit; choose 'cpu', or unset {variables.CLUSTER}"
            )
        if find_spec("ray") is None:
            raise UserError(f"{variables.CLUSTER} = 'ray': Ray is not installed; pip install 'pirl-core[ray]'")
        self._settings = settings
        self._wanted = wanted
        self._token = os.urandom(32)
        self._packages = packages_of(settings.benchmark)
        self._world = world_of(self._packages, settings.benchmark)
        self._listener: socket.socket | None = None
        self._placed = Placed()
        self._trouble = ""
        self._marks: dict[str, str] = {}
        self._process, self._pipe = self._start()

    def first(self) -> list[Worker]:
        """Those that join before the run begins: all that were placed, or those that came in time."""
        found: list[Worker] = []
        begun = time.monotonic()
        while not found or (len(found) < self._placed.actors and time.monotonic() - begun < MORE_SECONDS):
            found += self.joined(1.0 if found else JOIN_SECONDS)
        return found

    def joined(self, seconds: float = 0.0) -> list[Worker]:
        """Workers that have come; waits for one where none has. While other runs hold all that there is, that time
        stands still.

        Raises UserError where ``JOIN_SECONDS`` were not enough, or a machine has other packages or assets.
        """
        found: list[Worker] = []
        begun = time.monotonic()
        until, told = begun + seconds, False
        while True:
            self._heed()
            if seconds and self._placed.full:
                until = time.monotonic() + seconds
                if not told and time.monotonic() - begun > _TELL_SECONDS:
                    told = True
                    remedy = f"{variables.WORKERS} is how many a run takes"
                    print(f"waiting for others, who hold all {self._placed.total} of the resource {RESOURCE}; {remedy}",
                          file=sys.stderr, flush=True)  # fmt: skip
            left = until - time.monotonic()
            connection = self._accept(max(0.0, min(left, 0.5)))
            if connection is not None:
                found += self._admitted(connection)
            elif found or left <= 0:
                break
        if not found and seconds >= JOIN_SECONDS:
            raise UserError(
                f"{variables.CLUSTER} = 'ray': no worker has joined for {seconds:.0f} s ({self._why()}); see"
                f" `ray status`, give machines simulators by ray start --resources='{{\"{RESOURCE}\": 8}}', and where"
                " the cluster asks for a token, set RAY_AUTH_MODE=token"
            )
        return found

    def give_up(self, worker: Worker) -> None:
        """A lost worker may hang; Ray ends it, wherever it is, and starts another."""
        # Ray itself ends those of one who talked to it before.
        if mark := self._marks.pop(worker.name, None):
            with suppress(OSError):
                self._pipe.send(mark)

    def close(self) -> None:
        """End the process that talks to Ray, and with it the workers."""
        self._pipe.close()
        end(self._process)
        if self._listener is not None:
            self._listener.close()

    def _start(self) -> tuple["Popen[bytes]", Connection]:
        process, pipe = start_python(
            "from pirl_core.envs.vector.placing import main; main()", {"RAY_USAGE_STATS_ENABLED": "0"}, quiet=True
        )
        own, _, module = self._settings.benchmark.partition(".")
        pipe.send((self._wanted, _ranks(), self._token, own if module else None))
        return process, pipe

    def _why(self) -> str:
        if self._trouble:
            return self._trouble
        if not self._placed.total:
            return f"no machine has the resource {RESOURCE}"
        if self._placed.total < _ranks():
            return f"machines have {self._placed.total} of the resource {RESOURCE}, ranks are {_ranks()}"
        return f"{self._placed.actors} are still to start"

    def _heed(self) -> None:
        """Hear what is said of Ray; who says it is started again where it ended, as when the head was lost."""
        try:
            while self._pipe.poll():
                kind, said = self._pipe.recv()
                if kind == "node":
                    if self._listener is None:
                        self._listener = socket.create_server((said, 0), backlog=4096)
                    self._pipe.send(self._listener.getsockname()[:2])
                elif kind == "placed":
                    self._placed = said
                elif kind == "broken":
                    raise UserError(f"{variables.CLUSTER} = 'ray': a worker cannot run on its machine: {said}")
                else:
                    self._trouble = str(said)
        except (EOFError, OSError):
            self._pipe.close()
            end(self._process)
            self._placed = Placed()
            self._marks.clear()
            time.sleep(_AGAIN_SECONDS)
            self._process, self._pipe = self._start()

    def _accept(self, seconds: float) -> socket.socket | None:
        if self._listener is None:
            self._pipe.poll(seconds)
            return None
        self._listener.settimeout(seconds)
        try:
            return self._listener.accept()[0]
        except (TimeoutError, BlockingIOError):
            return None

    def _admitted(self, connection: socket.socket) -> list[Worker]:
        """The worker at the other end, if it is one of ours that has not gone again. Nothing is unpickled before the
        token was seen."""
        try:
            with connection:
                connection.settimeout(_HELLO_SECONDS)
                if not hmac.compare_digest(_exactly(connection, len(self._token)), self._token):
                    return []
                pipe = piped(connection, ANSWER_SECONDS)
            mark, name = pipe.recv()
            pipe.send(("world", (self._packages, self._settings.benchmark)))
            status, answer = pipe.recv()
        except (EOFError, OSError):
            return []
        if status != "ok":
            raise UserError(f"{name}: {last_line(answer)}")
        self._compare(name, answer)
        self._trouble = ""
        self._marks[name] = mark
        return [Worker(name, pipe, None)]

    def _compare(self, name: str, world: Mapping[str, str]) -> None:
        """Whether it simulates what the others do; the first tells what this machine has not."""
        for what in {**self._world, **world}:
            theirs = world.get(what, "missing")
            ours = self._world.setdefault(what, theirs)
            if ours != theirs:
                assets = facts_of(self._settings.benchmark).assets
                remedy = (
                    f"copy them, or set {ASSETS[assets].variable} there" if what == "assets" else "install the same"
                )
                raise UserError(f"{name}: {what} {theirs}, where others have {ours}; {remedy}")


def ended(worker: Worker) -> bool:
    """Whether the connection to it is closed, or broken; nothing is read."""
    watch = select.poll()
    watch.register(worker.pipe, select.POLLRDHUP)
    return bool(watch.poll(0))


def _ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _exactly(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := connection.recv(count - len(got))):
        got += more
    return got
