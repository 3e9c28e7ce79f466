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
from benchmarks.measure import Row, alternate, cores, part_parser, ratio, run_part
from benchmarks.setting import laptop
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.sections import Env
from pirl_core.readers import variables
from pirl_core.types import Episode


def nodes(count: int) -> Any:
    """A Ray cluster of ``count`` nodes beside its head, a simulator process on each."""
    # Else Ray's workers let everything else go first.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112  (Ray's own name)
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(count):
        made.add_node(num_cpus=1, resources={"sim": 1})
    return made


def rows(options: argparse.Namespace) -> list[Row]:
    """Chunks with one picture, the same number of workers on both sides."""
    env = laptop().env.model_copy(update={"episode_steps": options.chunks * options.chunk})
    if find_spec("ray") is None:
        return [Row("chunks by Ray's workers / by processes", "not measured", "≥ 0.90 ×", None, "Ray is not installed")]
    rng = np.random.default_rng(0)
    workers = min(cores(), options.slots)
    with ExitStack() as stack:
        cluster = nodes(workers)
        stack.callback(cluster.shutdown)
        sides: dict[str, VectorEnv] = {"here": stack.enter_context(VectorEnv(env, options.slots, workers))}
        os.environ |= {variables.CLUSTER: "ray", "RAY_ADDRESS": cluster.address}
        stack.callback(os.environ.pop, "RAY_ADDRESS")
        stack.callback(os.environ.pop, variables.CLUSTER)
        sides["ray"] = stack.enter_context(VectorEnv(env, options.slots, workers))
        work: dict[str, Callable[[], float]] = {
            name: partial(vector_rate, envs, env.tasks, options.chunks, options.chunk, rng)
            for name, envs in sides.items()
        }
        for side in work.values():
            side()
        rates = alternate(work, options.rounds)
        up, down = _bytes(sides["ray"], env, options.chunk)
        sides["ray"].close()
        lost = _killed(env, cluster, workers, options)
    factor = ratio(rates["ray"], rates["here"])
    return [
        lost,
        Row(
            f"steps with pixels, {workers} workers that Ray placed on as many nodes / {workers} processes",
            f"{factor:.2f} × ({median(rates['ray']):.0f} / {median(rates['here']):.0f} steps/s)",
            "≥ 0.90 × (at most a tenth for the way)",
            factor >= 0.9,
            f"{options.slots} slots, chunks of {options.chunk}, one {env.image_size}² picture a chunk; nodes are"
            f" raylets of one machine, so the network is its loopback; a slot's chunk is {up} bytes up and {down} down",
        ),
    ]


def _killed(env: Env, cluster: Any, workers: int, options: argparse.Namespace) -> Row:
    """The same episodes with and without SIGKILLs of workers, every fourth of a whole node, one before each chunk."""
    dead: list[str] = []

    def disturb(envs: VectorEnv, moment: int) -> None:
        nodes = sorted(cluster.worker_nodes, key=lambda node: node.node_id)
        if moment % 4 == 3:
            cluster.add_node(num_cpus=1, resources={"sim": 1})
            cluster.remove_node(nodes[0], allow_graceful=False)
            dead.append("raylet")
            return
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
        children = [child for raylet in raylets for child in raylet.children()]
        actors = [child for child in children if "ray::Simulators" in " ".join(child.cmdline())]
        for actor in actors[:1]:
            actor.kill()
            dead.append("worker")

    env = env.model_copy(update={"episode_steps": options.kills * options.chunk})
    calm, quiet = _played(env, workers, options, lambda envs, moment: None)
    same, spent = _played(env, workers, options, disturb)
    differ = sum(not np.array_equal(a, b) for a, b in zip(calm, same, strict=True))
    return Row(
        "arrays that differ when workers and nodes are killed",
        f"{differ} of {len(calm)}",
        "0",
        differ == 0,
        f"SIGKILL of {dead.count('worker')} workers and {dead.count('raylet')} raylets, one before each chunk; "
        f"{options.slots} slots; {(spent - quiet) / max(1, len(dead)):.1f} s a kill",
    )


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
    add("--kills", type=int, default=32, help="of workers and nodes, one before each chunk")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
