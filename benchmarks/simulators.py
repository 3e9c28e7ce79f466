"""Every simulator that is installed: what a reset, a step and a frame cost, and what the vector environment adds.

The same random episodes are played by a bare loop and through one and two workers, with the pictures and chunks of the
benchmark's preset.
"""

import argparse
import math
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from unittest.mock import patch

import numpy as np

from benchmarks.measure import Row, alternate, cores, milliseconds, part_parser, ratio, run_part, seconds
from pirl_core.envs.contract import Simulator
from pirl_core.envs.opening import open_simulator, settings_of
from pirl_core.envs.vector.processes import WORKER_ENVIRONMENT
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.errors import UserError
from pirl_core.facts import facts_of
from pirl_core.params.file import resolve
from pirl_core.params.preset import load_preset
from pirl_core.types import Episode

SCALES = ("laptop", "maniskill", "put_on_plate", "simpler", "libero", "calvin")
OVERHEAD = 0.15
ENOUGH = 6.0
"""Seconds that each side plays at least, in more rounds where a simulator is fast."""


def bare(simulators: Sequence[Simulator], episodes: Sequence[Episode], actions: np.ndarray) -> None:
    """One episode after another; actions: (chunks, slots, R, A)."""
    for slot, (simulator, episode) in enumerate(zip(simulators, episodes, strict=True)):
        simulator.reset(episode)
        simulator.images(), simulator.state()
        for chunk in actions[:, slot]:
            ended = False
            for action in chunk:
                _, terminated, truncated = simulator.step(action)
                ended = terminated or truncated
                if ended:
                    break
            simulator.images(), simulator.state()
            if ended:
                break


def through(envs: VectorEnv, episodes: Sequence[Episode], actions: np.ndarray) -> None:
    """The same, all slots at once."""
    live = list(range(len(episodes)))
    envs.reset(live, episodes)
    for chunk in actions:
        result = envs.step(live, chunk[live])
        ended = result.terminated | result.truncated
        live = [slot for slot, over in zip(live, ended, strict=True) if not over]
        if not live:
            break


def measure(scale: str, slots: int, rounds: int, repeats: int) -> list[Row]:
    """The rows of one benchmark; one that says why, where it cannot be opened."""
    params = load_preset(scale)
    run = resolve(params, next(iter(params.experiments)))
    env, facts = run.env, facts_of(run.env.benchmark)
    rng = np.random.default_rng(0)
    episodes = [Episode(env.tasks[slot % len(env.tasks)], slot, env.shift, slot) for slot in range(slots)]
    try:
        simulators = [open_simulator(settings_of(env), episode) for episode in episodes]
    except UserError as error:
        return [Row(facts.label, "not run", how=str(error))]
    chunks = -(-env.episode_steps // run.policy.replan)
    actions = rng.uniform(-1, 1, (chunks, slots, run.policy.replan, len(facts.action))).astype(np.float32)
    bare(simulators, episodes, actions)  # the first picture compiles shaders

    def cost(call: Callable[[Simulator, Episode], object]) -> float:
        pairs = zip(simulators, episodes, strict=True)
        return statistics.mean(milliseconds(partial(call, *pair), repeats) for pair in pairs)

    reset = cost(lambda simulator, episode: simulator.reset(episode))
    step = cost(lambda simulator, _: simulator.step(np.zeros(len(facts.action))))
    frame = cost(lambda simulator, _: simulator.images()) / len(env.cameras)
    sides: dict[str, Callable[[], float]] = {"bare": partial(seconds, partial(bare, simulators, episodes, actions))}
    with VectorEnv(env, slots, 1) as one, VectorEnv(env, slots, 2) as two:
        for name, envs in (("one", one), ("two", two)):
            through(envs, episodes, actions)
            sides[name] = partial(seconds, partial(through, envs, episodes, actions))
        spent = alternate(sides, max(rounds, math.ceil(ENOUGH / sides["bare"]())))
    lost = 1 - ratio(spent["bare"], spent["one"])
    rates = {name: 60 * slots / statistics.median(times) for name, times in spent.items()}
    return [
        Row(
            f"{facts.label}: ms of a reset, a step, a frame ({env.image_size}²)",
            f"{reset:.1f}, {step:.2f}, {frame:.2f}",
            how=f"one process; mean over {', '.join(sorted({episode.task for episode in episodes}))}",
        ),
        Row(
            f"{facts.label}: share of time that one worker adds to a bare loop",
            f"{100 * lost:.1f} %",
            f"≤ {100 * OVERHEAD:.0f} %",
            lost <= OVERHEAD,
            f"episodes a minute: {rates['bare']:.0f} bare, {rates['one']:.0f} with 1 worker, {rates['two']:.0f} with 2"
            f" on {cores()} cores; random actions, {env.episode_steps} steps, {len(env.cameras)} picture(s) every"
            f" {run.policy.replan} steps, {slots} slots",
        ),
    ]


def rows(options: argparse.Namespace) -> list[Row]:
    found = []
    # A simulator keeps its process to itself, and the threads that a worker has.
    with patch.dict(os.environ, WORKER_ENVIRONMENT):
        for scale in options.scales:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                found += pool.submit(measure, scale, options.slots, options.rounds, options.repeats).result()
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("simulators", __doc__)
    add = parser.add_argument
    add("--scales", nargs="+", choices=SCALES, default=SCALES, help="whose presets are measured")
    add("--slots", type=int, default=4, help="episodes at once")
    add("--rounds", type=int, default=3, help="measurements of each side at least")
    add("--repeats", type=int, default=10, help="repeats of single operations")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
