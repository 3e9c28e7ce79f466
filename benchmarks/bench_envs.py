"""What simulation costs: milliseconds per step, reset and frame, raw and through the vector environment.

python benchmarks/bench_envs.py --task drawer-open-v3 --size 64 --envs 16
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from pirl_core.envs.metaworld import MetaWorldEnv
from pirl_core.envs.render import Renderer
from pirl_core.envs.vector import VectorEnv, worker_count
from pirl_core.params import Env
from pirl_core.types import Episode

CHUNK = 5


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median time of one call after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return float(np.median(times)) * 1e3


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--task", default="drawer-open-v3")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--envs", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(0)
    seeds = iter(range(10**9))

    begin = time.perf_counter()
    simulator = MetaWorldEnv(options.task, 10**9, True)
    print(f"build, first      {(time.perf_counter() - begin) * 1e3:8.2f} ms")
    again = milliseconds(lambda: MetaWorldEnv(options.task, 1, True), 5)
    print(f"build, later      {again:8.2f} ms")
    reset = milliseconds(lambda: simulator.reset(Episode(options.task, next(seeds))), options.repeats)
    print(f"reset             {reset:8.2f} ms")
    step = milliseconds(lambda: simulator.step(rng.uniform(-1, 1, 4)), options.repeats)
    print(f"step              {step:8.2f} ms")
    renderer = Renderer()
    for fast in (True, False):
        frame = milliseconds(partial(renderer.frames, simulator, ["corner2"], options.size, fast), options.repeats)
        print(f"frame {'fast ' if fast else 'full '} {options.size:4d} px {frame:8.2f} ms")

    env = Env(
        tasks=[options.task],
        episode_steps=10**9,
        cameras=["corner2"],
        image_size=options.size,
        fast_render=True,
        object_state=False,
    )
    slots = range(options.envs)
    with VectorEnv(env, options.envs) as envs:
        envs.reset(slots, [Episode(options.task, seed) for seed in slots])
        chunk = milliseconds(
            lambda: envs.step(slots, rng.uniform(-1, 1, (options.envs, CHUNK, 4)).astype(np.float32)),
            max(options.repeats // 10, 1),
        )
    per_step = chunk / (CHUNK * options.envs)
    print(f"vector, {options.envs} slots, {worker_count(options.envs)} workers, chunks of {CHUNK} and one frame each:")
    print(f"                  {per_step:8.2f} ms per environment step, {1e3 / per_step:.0f} steps/s")


if __name__ == "__main__":
    main()
