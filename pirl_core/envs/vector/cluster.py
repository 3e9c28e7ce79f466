"""Workers on other machines, which Ray places (``PIRL_CLUSTER=ray``), as ``slots`` sees them.

A process of its own talks to Ray (``placing``): Ray ends a program whose cluster has lost its head, and a training
shall outlive that. Workers come back by a connection of their own, each with the run's token, so a message takes no
other way than to a process of this machine but the network. Who joins, when and where changes no number.
"""

import hmac
import os
import socket
import time
from collections.abc import Mapping
from importlib.util import find_spec
from multiprocessing.connection import Connection
from subprocess import Popen

from pirl_core.envs.assets import ASSETS
from pirl_core.envs.contract import Settings
from pirl_core.envs.vector.placing import RESOURCE, piped
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
        self._placed = 0
        self._trouble = ""
        self._process, self._pipe = self._start()

    def first(self) -> list[Worker]:
        """Those that join before the run begins: all that were placed, or those that came in time."""
        found: list[Worker] = []
        begun = time.monotonic()
        while not found or (len(found) < self._placed and time.monotonic() - begun < MORE_SECONDS):
            found += self.joined(1.0 if found else JOIN_SECONDS)
        return found

    def joined(self, seconds: float = 0.0) -> list[Worker]:
        """Workers that have come; waits for one where none has.

        Raises UserError where ``JOIN_SECONDS`` were not enough, or a machine has other packages or assets.
        """
        found: list[Worker] = []
        until = time.monotonic() + seconds
        while True:
            self._heed()
            left = until - time.monotonic()
            connection = self._accept(max(0.0, min(left, 0.5)))
            if connection is not None:
                found += self._admitted(connection)
            elif found or left <= 0:
                break
        if not found and seconds >= JOIN_SECONDS:
            why = self._trouble or (
                f"no machine has the resource {RESOURCE}" if not self._placed else f"{self._placed} are still to start"
            )
            raise UserError(
                f"{variables.CLUSTER} = 'ray': no worker has joined for {seconds:.0f} s ({why}); see `ray status`, give"
                f" machines simulators by ray start --resources='{{\"{RESOURCE}\": 8}}', and where the cluster asks for"
                " a token, set RAY_AUTH_MODE=token"
            )
        return found

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
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        pipe.send((self._wanted, ranks, self._token, self._settings.benchmark.split(".")[0]))
        return process, pipe

    def _heed(self) -> None:
        """Hear what is said of Ray; who says it is started again where it ended, as when the head was lost."""
        try:
            while self._pipe.poll():
                kind, said = self._pipe.recv()
                if kind == "node":
                    if self._listener is None:
                        self._listener = socket.create_server((said, 0), backlog=256)
                    self._pipe.send(self._listener.getsockname()[:2])
                elif kind == "placed":
                    self._placed, self._trouble = said, ""
                elif kind == "broken":
                    raise UserError(f"{variables.CLUSTER} = 'ray': a worker cannot run on its machine: {said}")
                else:
                    self._trouble = str(said)
        except (EOFError, OSError):
            self._pipe.close()
            end(self._process)
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
            name: str = pipe.recv()
            pipe.send(("world", (self._packages, self._settings.benchmark)))
            status, answer = pipe.recv()
        except (EOFError, OSError):
            return []
        if status != "ok":
            raise UserError(f"{name}: {answer.strip().splitlines()[-1]}")
        self._compare(name, answer)
        return [Worker(name, pipe, None)]

    def _compare(self, name: str, world: Mapping[str, str]) -> None:
        """Whether it simulates what the others do; the first tells what this machine has not."""
        for what, theirs in world.items():
            ours = self._world.setdefault(what, theirs)
            if ours != theirs:
                assets = facts_of(self._settings.benchmark).assets
                remedy = (
                    f"copy them, or set {ASSETS[assets].variable} there" if what == "assets" else "install the same"
                )
                raise UserError(f"{name}: {what} {theirs}, where others have {ours}; {remedy}")


def _exactly(connection: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := connection.recv(count - len(got))):
        got += more
    return got
