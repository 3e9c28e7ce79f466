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
from typing import Any

import pirl_core
from pirl_core.envs.vector import worker
from pirl_core.envs.vector.processes import WORKER_ENVIRONMENT

RESOURCE = "sim"
LOOK_SECONDS = 1.0
ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A machine that lost its power says nothing; after 30 s it is given up."""


class Simulators:
    """The actor: a worker on whichever machine Ray puts it."""

    def serve(self, trainer: tuple[str, int], token: bytes) -> None:
        """Answer the trainer's messages until it closes the connection."""
        with socket.create_connection(trainer, timeout=60) as connection:
            connection.sendall(token)
            here = connection.getsockname()[0]
            pipe = piped(connection)
        with pipe:
            pipe.send(f"environment worker on {here} (process {os.getpid()})")
            worker.serve(pipe)


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


def place(pipe: Connection, wanted: int, ranks: int, token: bytes, package: str) -> None:
    """Up: ("node", this machine's address), then ("placed", how many), whenever it changes, ("failed", a line) where
    Ray cannot be reached, ("broken", a line) where an actor cannot run. Down, after the first: the trainer's address.

    wanted: the most that one of so many ranks can use. package: of the benchmark, travels to the machines as the
    project's own does.
    """
    import ray

    code = [_folder(name) for name in {pirl_core.__name__, package}]
    environment = {"env_vars": WORKER_ENVIRONMENT, "py_modules": [folder for folder in code if folder]}
    options: dict[str, Any] = {"runtime_env": environment, "log_to_driver": False, "logging_level": "error"}
    try:
        ray.init(address="auto", **options)
    except ConnectionError:
        if os.environ.get("RAY_ADDRESS"):
            raise
        cores = len(os.sched_getaffinity(0))
        ray.init(address="local", resources={RESOURCE: cores}, include_dashboard=False, **options)
    pipe.send(("node", ray.util.get_node_ip_address()))
    trainer = pipe.recv()
    actor_class: Any = ray.remote(Simulators)
    actors: dict[Any, Any] = {}
    placed = -1
    while not pipe.poll():
        room = int(ray.cluster_resources().get(RESOURCE, 0)) // ranks
        while len(actors) < min(wanted, room):
            actor = actor_class.options(num_cpus=0, resources={RESOURCE: 1}, scheduling_strategy="SPREAD").remote()
            actors[actor.serve.remote(trainer, token)] = actor
        if len(actors) != placed:
            placed = len(actors)
            pipe.send(("placed", placed))
        ended, _ = ray.wait(list(actors), timeout=LOOK_SECONDS) if actors else ([], [])
        if not actors:
            pipe.poll(LOOK_SECONDS)
        for task in ended:
            actor = actors.pop(task)
            try:
                ray.get(task)
            except ray.exceptions.RayActorError:
                pass  # the machine or the process was lost; the next round makes another
            except ray.exceptions.RayError as error:
                pipe.send(("broken", _last_line(error)))
            ray.kill(actor)


def _folder(package: str) -> str | None:
    spec = find_spec(package)
    return str(Path(str(spec.origin)).parent) if spec and spec.submodule_search_locations else None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1][:300] if lines else type(error).__name__


def main() -> None:
    with Connection(int(sys.argv[1])) as pipe:
        try:
            place(pipe, *pipe.recv())
        except (EOFError, BrokenPipeError, ConnectionResetError):
            pass  # the parent is gone
        except Exception as error:  # of Ray, which has many kinds
            pipe.send(("failed", _last_line(error)))
