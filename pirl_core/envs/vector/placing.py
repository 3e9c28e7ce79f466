"""The process that talks to Ray, and the actor that it places: ``cluster.Cluster`` starts it.

It keeps as many actors as the cluster has of the resource ``sim``, and makes a new one for each that is lost. An actor
connects back to the trainer and is a worker like any other (``worker.serve``), so Ray carries no observation. It ends
when the pipe to its parent closes. Ray is imported here alone.
"""

import os
import socket
import sys
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import pirl_core
from pirl_core.envs.vector import worker
from pirl_core.envs.vector.processes import WORKER_ENVIRONMENT

RESOURCE = "sim"
LOOK_SECONDS = 1.0
ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
"""A machine that lost its power says nothing; after 30 s it is given up, with or without a message on its way."""


class Placed(NamedTuple):
    """How many actors of this run there are; how much of the resource there is, and whether all of it is taken while
    none of them has begun: they are about to, or other runs hold it."""

    actors: int = 0
    total: int = 0
    full: bool = False


class Simulators:
    """The actor: a worker on whichever machine Ray puts it."""

    def begin(self) -> None:
        """Answers as soon as there is a process."""

    def serve(self, trainer: tuple[str, int], token: bytes, mark: str) -> str:
        """Answer the trainer's messages until it closes the connection. Returns why the trainer was not reached, if
        it was not."""
        try:
            with socket.create_connection(trainer, timeout=60) as connection:
                connection.sendall(token)
                here = connection.getsockname()[0]
                pipe = piped(connection)
            with pipe:
                pipe.send((mark, f"environment worker on {here} (process {os.getpid()})"))
                worker.serve(pipe)
        except OSError as error:
            return f"{socket.gethostname()} does not reach {trainer[0]}:{trainer[1]}: {error}"
        return ""


def piped(connection: socket.socket, seconds: int = 0) -> Connection:
    """The connection as a pipe. seconds: the longest that a read or write may take, of 0 without end."""
    connection.setblocking(True)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in ALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        # A C timeval: seconds and microseconds.
        connection.setsockopt(socket.SOL_SOCKET, option, seconds.to_bytes(8, sys.byteorder) + bytes(8))
    return Connection(connection.detach())


def place(pipe: Connection, wanted: int, ranks: int, token: bytes, package: str | None) -> None:
    """Up: ("node", this machine's address), then ("placed", ``Placed``) whenever it changes, ("failed", a line) where
    Ray or the trainer cannot be reached, ("broken", a line) where an actor cannot run. Down, after the first: the
    trainer's address, then the marks of actors that it gave up.

    wanted: the most that one of so many ranks can use. package: somebody's own benchmark, which travels to the machines
    as the project does. Raises EOFError when the trainer has ended.
    """
    import ray

    code = [_folder(name) for name in (pirl_core.__name__, package) if name]
    environment = {"env_vars": WORKER_ENVIRONMENT, "py_modules": [folder for folder in code if folder]}
    options: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": "error"}
    if address := os.environ.get("RAY_ADDRESS"):
        ray.init(address=address, **options)
    else:
        # One of its own, which no other stage comes to use, and to lose.
        cores = len(os.sched_getaffinity(0))
        ray.init(address="local", resources={RESOURCE: cores}, include_dashboard=False, **options)
    pipe.send(("node", ray.util.get_node_ip_address()))
    trainer = pipe.recv()
    actor_class: Any = ray.remote(Simulators)
    # By the promise of their end: the actor, its mark, and the promise of its beginning.
    actors: dict[Any, tuple[Any, str, Any]] = {}
    told: Placed | None = None
    while True:
        given_up = {pipe.recv() for _ in iter(pipe.poll, False)}
        for actor, mark, _ in actors.values():
            if mark in given_up:
                # It may hang, and then holds its share of the resource as long as it lives.
                ray.kill(actor)
        total = int(ray.cluster_resources().get(RESOURCE, 0))
        while len(actors) < min(wanted, total // ranks):
            actor = actor_class.options(num_cpus=0, resources={RESOURCE: 1}, scheduling_strategy="SPREAD").remote()
            beginning, mark = actor.begin.remote(), os.urandom(8).hex()
            actors[actor.serve.remote(trainer, token, mark)] = actor, mark, beginning
        promises = [beginning for _, _, beginning in actors.values()]
        none = bool(promises) and not ray.wait(promises, timeout=0)[0]
        now = Placed(len(actors), total, none and ray.available_resources().get(RESOURCE, 0) < 1)
        if now != told:
            told = now
            pipe.send(("placed", now))
        ended, _ = ray.wait(list(actors), timeout=LOOK_SECONDS) if actors else ([], [])
        if not actors:
            pipe.poll(LOOK_SECONDS)
        for task in ended:
            actor, _, _ = actors.pop(task)
            try:
                if unreached := ray.get(task):
                    pipe.send(("failed", unreached))
            except ray.exceptions.RayActorError:
                pass  # the machine or the process was lost; the next round makes another
            except ray.exceptions.RayError as error:
                pipe.send(("broken", last_line(str(error)) or type(error).__name__))
            ray.kill(actor)


def _folder(package: str) -> str | None:
    spec = find_spec(package)
    return str(Path(str(spec.origin)).parent) if spec and spec.submodule_search_locations else None


def last_line(text: str) -> str:
    """As much of it as fits a message."""
    return (text.strip().splitlines() or [""])[-1][:300]


def main() -> None:
    with Connection(int(sys.argv[1])) as pipe:
        try:
            place(pipe, *pipe.recv())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the parent is gone
        except Exception as error:  # of Ray, which has many kinds
            pipe.send(("failed", last_line(str(error)) or type(error).__name__))
