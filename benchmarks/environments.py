"""The vector environment against raw loops of MetaWorld and Gymnasium, and against AsyncVectorEnv with pictures.

Also the milliseconds that a step, a reset and a frame cost.
"""

import argparse
import time
from collections.abc import Sequence
from functools import partial
from itertools import count
from statistics import mean, median
from typing import Any, get_args

import gymnasium as gym
import numpy as np

from benchmarks.measure import Row, alternate, cores, milliseconds, part_parser, ratio, run_part
from benchmarks.setting import laptop
from pirl_core.envs.drawing.mujoco import Detail, Renderer
from pirl_core.envs.metaworld.simulator import MetaWorldEnv
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Env
from pirl_core.types import Episode

CAMERA = "corner2"
_seeds = count()


def raw_environment(task: str, **settings: Any) -> gym.Env:
    """MetaWorld as its documentation makes it."""
    import metaworld  # noqa: F401 - registers its environments

    gym.logger.min_level = gym.logger.ERROR  # gymnasium finds fault with MetaWorld's spaces
    return gym.make("Meta-World/MT1", env_name=task, seed=0, **settings)


def drawing_environment(task: str, size: dict[str, int]) -> gym.Env:
    """One environment of the AsyncVectorEnv: a picture beside each observation."""
    env = raw_environment(task, render_mode="rgb_array", camera_name=CAMERA, **size)
    return gym.wrappers.AddRenderObservation(env, render_only=False)


def raw_rate(simulators: list[Any], steps: int, rng: np.random.Generator) -> float:
    """Steps per second of the simulators' own ``step``, without gymnasium's wrappers, one simulator after another."""
    spent = 0.0
    for simulator in simulators:
        simulator.reset()
        actions = rng.uniform(-1, 1, (steps, *simulator.action_space.shape)).astype(np.float32)
        begin = time.perf_counter()
        for action in actions:
            simulator.step(action)
        spent += time.perf_counter() - begin
    return steps * len(simulators) / spent


def vector_rate(
    envs: VectorEnv, tasks: list[str], chunks: int, length: int, rng: np.random.Generator, numbers: int = 4
) -> float:
    """Steps per second over ``chunks`` chunks from fresh episodes; an episode that succeeds drops out. numbers: of an
    action."""
    live = list(range(envs.num_envs))
    envs.reset(live, [Episode(tasks[slot % len(tasks)], next(_seeds)) for slot in live])
    steps, begin = 0, time.perf_counter()
    for _ in range(chunks):
        actions = rng.uniform(-1, 1, (len(live), length, numbers)).astype(np.float32)
        result = envs.step(live, actions)
        steps += int(result.steps.sum())
        live = [slot for slot, done in zip(live, result.terminated, strict=True) if not done]
    return steps / (time.perf_counter() - begin)


def async_rate(envs: gym.vector.AsyncVectorEnv, steps: int) -> float:
    """Steps per second, each with its picture."""
    begin = time.perf_counter()
    for _ in range(steps):
        envs.step(envs.action_space.sample())
    return steps * int(envs.num_envs) / (time.perf_counter() - begin)


def costs(env: Env, repeats: int) -> list[Row]:
    """Milliseconds of single operations in this process."""
    rng = np.random.default_rng(0)
    settings = settings_of(env)._replace(episode_steps=10**9, object_state=True)
    simulators = [MetaWorldEnv(task, settings) for task in env.tasks]
    renderer = Renderer()

    def cost(call: Any) -> str:
        return f"{mean(milliseconds(partial(call, each), repeats) for each in simulators):.2f}"

    reset = cost(lambda each: each.reset(Episode(each.task, next(_seeds))))
    step = cost(lambda each: each.step(rng.uniform(-1, 1, 4)))
    fast, film, full = (
        cost(lambda each, detail=detail: renderer.frames(each, [CAMERA], env.image_size, detail))
        for detail in get_args(Detail)
    )
    size = env.image_size
    return [
        Row(
            f"ms of a reset, a step, a fast frame, a film's, a full frame ({size}²)",
            f"{reset}, {step}, {fast}, {film}, {full}",
            how="one process; mean over the tasks",
        )
    ]


def state_rows(env: Env, options: argparse.Namespace) -> list[Row]:
    """Chunks with state observations against the raw loop."""
    simulators = []
    for task in env.tasks:
        made = raw_environment(task)
        made.reset()
        simulators.append(made.unwrapped)
    env = env.model_copy(update={"cameras": [], "object_state": True})
    return [_against_raw("MetaWorld", env, simulators, options.slots, options.chunk, options)]


def locomotion_rows(options: argparse.Namespace) -> list[Row]:
    """The same of Gymnasium, in slots and chunks of the preset reinflow; HalfCheetah's episodes do not end early."""
    run = resolve(load_preset("reinflow"), "hopper")
    slots, chunk = min(run.rl.num_envs, 10 * options.slots), run.policy.replan
    steps = options.chunks * options.chunk
    env = run.env.model_copy(update={"tasks": ["HalfCheetah-v5"], "episode_steps": steps})
    simulators = [gym.make(env.tasks[0]).unwrapped]
    return [_against_raw("Gymnasium", env, simulators, slots, chunk, options)]


def _against_raw(
    name: str, env: Env, simulators: list[Any], slots: int, chunk: int, options: argparse.Namespace
) -> Row:
    """``options.chunks`` times ``options.chunk`` steps of each slot and of each raw simulator."""
    rng = np.random.default_rng(0)
    workers, steps = min(cores(), slots), options.chunks * options.chunk
    numbers = simulators[0].action_space.shape[0]
    with VectorEnv(env, slots, workers) as envs:
        vector_rate(envs, env.tasks, 1, chunk, rng, numbers)  # simulators are built at the first reset
        rates = alternate(
            {
                "raw": lambda: raw_rate(simulators, steps, rng),
                "vector": lambda: vector_rate(envs, env.tasks, steps // chunk, chunk, rng, numbers),
            },
            options.rounds,
        )
    factor, goal = ratio(rates["vector"], rates["raw"]), 0.85 * workers
    return Row(
        f"vector environment, states, {workers} workers / raw {name} loop, 1 process",
        f"{factor:.2f} × ({median(rates['vector']):.0f} / {median(rates['raw']):.0f} steps/s)",
        f"≥ {goal:.2f} × (0.85 a worker)",
        factor >= goal,
        f"{slots} slots, chunks of {chunk}; {', '.join(env.tasks)}",
    )


def pixel_rows(env: Env, options: argparse.Namespace) -> list[Row]:
    """One fast frame a chunk against a default frame each step."""
    rng = np.random.default_rng(0)
    size = env.image_size
    default, small = (
        gym.vector.AsyncVectorEnv([partial(drawing_environment, task, s) for task in env.tasks], context="spawn")
        for s in ({}, {"width": size, "height": size})
    )
    with VectorEnv(env, options.slots) as envs:
        vector_rate(envs, env.tasks, 1, options.chunk, rng)
        for other in (default, small):
            other.reset()
            async_rate(other, 1)
        rates = alternate(
            {
                "vector": lambda: vector_rate(envs, env.tasks, options.chunks, options.chunk, rng),
                "default": lambda: async_rate(default, options.frames),
                "small": lambda: async_rate(small, options.frames),
            },
            options.rounds,
        )
    for other in (default, small):
        other.close()
    rows = []
    for name, label in (("default", "default size (480²)"), ("small", f"{size}²")):
        factor = ratio(rates["vector"], rates[name])
        rows.append(
            Row(
                f"vector environment, pixels / AsyncVectorEnv drawing each step, {label}",
                f"{factor:.0f} × ({median(rates['vector']):.0f} / {median(rates[name]):.1f} steps/s)",
                "≥ 20 ×" if name == "default" else "",
                factor >= 20 if name == "default" else None,
                f"ours: one fast {size}² frame a chunk of {options.chunk}; "
                f"theirs: {len(env.tasks)} environments, full quality",
            )
        )
    return rows


def rows(options: argparse.Namespace) -> list[Row]:
    env = laptop().env.model_copy(update={"episode_steps": options.chunks * options.chunk})
    return [
        *state_rows(env, options),
        *locomotion_rows(options),
        *pixel_rows(env, options),
        *costs(env, options.repeats),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("environments", __doc__)
    add = parser.add_argument
    add("--slots", type=int, default=16, help="slots of the vector environment")
    add("--chunk", type=int, default=10, help="actions of a chunk")
    add("--chunks", type=int, default=20, help="chunks of a measurement")
    add("--frames", type=int, default=4, help="steps of the drawing AsyncVectorEnv in a measurement")
    add("--rounds", type=int, default=7, help="measurements of each side")
    add("--repeats", type=int, default=50, help="repeats of single operations")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
