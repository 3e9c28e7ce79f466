"""Workers that Ray places on nodes of this machine against processes of its own: seconds and bytes of a chunk.

Also what is left of the numbers where workers and nodes are killed: all.
"""

import argparse
import os
import pickle
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from statistics import median
from typing import Any

import numpy as np
import psutil

from benchmarks.environments import vector_rate
from benchmarks.measure import Row, alternate, part_parser, ratio, run_part
from benchmarks.setting import laptop
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.sections import Env
from pirl_core.readers import variables
from pirl_core.types import Episode

NODES = (1, 2, 4)
PAIR = 2
"""Workers and nodes of what is timed and of what is killed."""


def nodes(count: int) -> Any:
    """A Ray cluster of ``count`` nodes beside its head, a simulator process on each."""
    # Else Ray's workers let everything else go first.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (Ray's own name)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(count):
        add_node(made)
    return made


def add_node(cluster: Any) -> None:
    cluster.add_node(num_cpus=1, resources={"sim": 1})


def rows(options: argparse.Namespace) -> list[Row]:
    """All of what several nodes do, against the processes of one machine."""
    env = laptop().env.model_copy(update={"episode_steps": options.kills * options.chunk})
    if find_spec("ray") is None:
        return [Row("chunks by Ray's workers / by processes", "not measured", "≥ 0.90 ×", None, "Ray is not installed")]
    found: list[Row] = []
    differ: dict[int, int] = {}
    with ExitStack() as stack:
        here, _ = _played(env, PAIR, options, _nothing)
        processes = stack.enter_context(VectorEnv(env, options.slots, PAIR))
        cluster = nodes(0)
        stack.callback(cluster.shutdown)
        os.environ |= {variables.CLUSTER: "ray", "RAY_ADDRESS": cluster.address}
        stack.callback(os.environ.pop, "RAY_ADDRESS")
        stack.callback(os.environ.pop, variables.CLUSTER)
        for count in NODES:
            while len(cluster.worker_nodes) < count:
                add_node(cluster)
            same, quiet = _played(env, count, options, _nothing)
            differ[count] = _differ(here, same)
            if count == PAIR:
                found = [_killed(env, cluster, here, quiet, options), _rates(env, processes, options)]
    told = ", ".join(f"{count} node{'s' * (count > 1)}: {number}" for count, number in differ.items())
    what = "arrays of Ray's workers that differ from those of processes"
    how = f"of {len(here)} each; {options.slots} slots"
    return [Row(what, told, "0", not any(differ.values()), how), *found]


def _rates(env: Env, processes: VectorEnv, options: argparse.Namespace) -> Row:
    """Chunks with one picture, the same number of workers on both sides."""
    rng = np.random.default_rng(0)
    with VectorEnv(env, options.slots, PAIR) as cluster:
        work: dict[str, Callable[[], float]] = {
            name: partial(vector_rate, envs, env.tasks, options.chunks, options.chunk, rng)
            for name, envs in {"here": processes, "ray": cluster}.items()
        }
        for side in work.values():
            side()
        rates = alternate(work, options.rounds)
        up, down = _bytes(cluster, env, options.chunk)
    factor = ratio(rates["ray"], rates["here"])
    return Row(
        f"steps with pixels, {PAIR} workers that Ray placed on as many nodes / {PAIR} processes",
        f"{factor:.2f} × ({median(rates['ray']):.0f} / {median(rates['here']):.0f} steps/s)",
        "≥ 0.90 × (at most a tenth for the way)",
        factor >= 0.9,
        f"{options.slots} slots, chunks of {options.chunk}, one {env.image_size}² picture a chunk; nodes are"
        f" raylets of one machine, so the network is its loopback; a slot's chunk is {up} bytes up and {down} down",
    )


def _killed(env: Env, cluster: Any, here: list[np.ndarray], quiet: float, options: argparse.Namespace) -> Row:
    """With SIGKILLs of workers, every fourth of a whole node, one before each chunk. quiet: seconds without."""
    dead: list[str] = []

    def disturb(envs: VectorEnv, moment: int) -> None:
        nodes = sorted(cluster.worker_nodes, key=lambda node: node.node_id)
        if moment % 4 == 3:
            add_node(cluster)
            cluster.remove_node(nodes[0], allow_graceful=False)
            dead.append("raylet")
            return
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
        children = [child for raylet in raylets for child in raylet.children()]
        actors = [child for child in children if "ray::Simulators" in " ".join(child.cmdline())]
        for actor in actors[:1]:
            actor.kill()
            dead.append("worker")

    same, spent = _played(env, PAIR, options, disturb)
    return Row(
        "arrays that differ from those of processes when workers and nodes are killed",
        f"{(differ := _differ(here, same))} of {len(here)}",
        "0",
        differ == 0,
        f"SIGKILL of {dead.count('worker')} workers and {dead.count('raylet')} raylets, one before each chunk; "
        f"{options.slots} slots; {(spent - quiet) / max(1, len(dead)):.1f} s a kill",
    )


def _nothing(envs: VectorEnv, moment: int) -> None:
    pass


def _differ(some: list[np.ndarray], others: list[np.ndarray]) -> int:
    return sum(not np.array_equal(a, b) for a, b in zip(some, others, strict=True))


def _played(
    env: Env, workers: int, options: argparse.Namespace, disturb: Callable[[VectorEnv, int], None]
) -> tuple[list[np.ndarray], float]:
    """All that the chunks of one episode a slot answer, and the seconds."""
    rng = np.random.default_rng(1)
    live = list(range(options.slots))
    seen: list[np.ndarray] = []
    with VectorEnv(env, options.slots, workers) as envs:
        begin = time.perf_counter()
        envs.reset(live, [Episode(env.tasks[slot % len(env.tasks)], slot) for slot in live])
        for moment in range(options.kills):
            disturb(envs, moment)
            result = envs.step(live, rng.uniform(-1, 1, (len(live), options.chunk, 4)).astype(np.float32))
            seen += [*result.observation[:2], *result[1:]]
            ended = result.terminated | result.truncated
            live = [slot for slot, over in zip(live, ended, strict=True) if not over]
            if not live:
                break
        return seen, time.perf_counter() - begin


def _bytes(envs: VectorEnv, env: Env, length: int) -> tuple[int, int]:
    """Of one slot's chunk, as the pipe takes them: the answer, and the question."""
    envs.reset([0], [Episode(env.tasks[0], 0)])
    chunk = np.zeros((1, length, 4), np.float32)
    result = envs.step([0], chunk)
    answer = (*result.observation[:2], np.array(result.observation.instructions), *result[1:])
    return len(pickle.dumps(("ok", answer))), len(pickle.dumps(("step", ([0], chunk))))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("cluster", __doc__)
    add = parser.add_argument
    add("--slots", type=int, default=16, help="slots of the vector environment")
    add("--chunk", type=int, default=10, help="actions of a chunk")
    add("--chunks", type=int, default=20, help="chunks of a measurement")
    add("--rounds", type=int, default=7, help="measurements of each side")
    add("--kills", type=int, default=36, help="of workers and nodes, one before each chunk")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
