"""One RL iteration at the laptop scale: where its time goes, and how threads and workers share the cores."""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.measure import Row, alternate, cores, part_parser, run_part
from benchmarks.setting import laptop, random_policy, wait_for_device
from pirl_core.envs.metaworld.simulator import MetaWorldEnv
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.envs.vector.worker import Slots
from pirl_core.params.file import Run
from pirl_core.params.sections import Env
from pirl_core.policy.flow_policy import FlowPolicy
from pirl_core.rl.collect import collect
from pirl_core.rl.train import iteration_episodes, noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner
from pirl_core.types import ChunkResult, Episode, Observation

SAMPLED_SLOTS = 8
"""Slots whose calls are repeated in this process to tell simulation from drawing."""


def timed(call: Callable[..., Any], clock: dict[str, float], name: str) -> Callable[..., Any]:
    """``call``, its wall time added to ``clock[name]``."""

    def wrapper(*arguments: Any) -> Any:
        begin = time.perf_counter()
        try:
            return call(*arguments)
        finally:
            wait_for_device()
            clock[name] += time.perf_counter() - begin

    return wrapper


class Recorded:
    """A vector environment that times its calls and keeps those of the first slots."""

    def __init__(self, envs: VectorEnv, clock: dict[str, float]) -> None:
        self.num_envs, self.groups = envs.num_envs, envs.groups
        self.calls: list[tuple[list[int], list[Episode] | np.ndarray]] = []
        self._reset = timed(envs.reset, clock, "environments")
        self._step = timed(envs.step, clock, "environments")

    def reset(self, slots: list[int], episodes: list[Episode]) -> Observation:
        rows = [row for row, slot in enumerate(slots) if slot < SAMPLED_SLOTS]
        self.calls.append(([slots[row] for row in rows], [episodes[row] for row in rows]))
        result: Observation = self._reset(slots, episodes)
        return result

    def step(self, slots: list[int], actions: np.ndarray) -> ChunkResult:
        rows = [row for row, slot in enumerate(slots) if slot < SAMPLED_SLOTS]
        self.calls.append(([slots[row] for row in rows], actions[rows]))
        result: ChunkResult = self._step(slots, actions)
        return result


def drawing_share(env: Env, calls: list[tuple[list[int], list[Episode] | np.ndarray]]) -> float:
    """Part of the workers' time that goes into frames: the same calls again in this process, twice, the first to build
    simulators and shaders."""
    slots = Slots(settings_of(env))
    clock: dict[str, float] = defaultdict(float)
    with patch.object(MetaWorldEnv, "images", timed(MetaWorldEnv.images, clock, "drawing")):
        for _ in range(2):
            clock.clear()
            begin = time.perf_counter()
            for rows, what in calls:
                if rows:
                    if isinstance(what, list):
                        slots.reset(list(zip(rows, what, strict=True)))
                    else:
                        slots.step(rows, what)
            whole = time.perf_counter() - begin
    return clock["drawing"] / whole


def iterate(run: Run, learner: Learner, policy: FlowPolicy, envs: Any, clock: dict[str, float]) -> float:
    """Seconds of one iteration; always the same episodes, so that iterations can be compared."""
    process, noise = process_of(run.rl), noise_at(run.rl, 0)
    episodes = iteration_episodes(run.env.tasks, run.env.shift, run.rl, 0, 0)
    begin = time.perf_counter()
    rollout, share, _ = collect(policy, envs, episodes, noise, process, run.rl, (0, 2, 0))
    rng = np.random.default_rng(0)
    timed(update, clock, "update")(learner, rollout, share, noise, process, run.rl, rng, False, 0)
    return time.perf_counter() - begin


def rows(options: argparse.Namespace) -> list[Row]:
    run = laptop()
    sizes = {"num_envs": options.slots, "episodes_per_iteration": options.episodes}
    run = run._replace(rl=run.rl.model_copy(update=sizes))
    policy = random_policy(run, run.policy)
    rl = run.rl
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    clock: dict[str, float] = defaultdict(float)
    policy.encode = timed(policy.encode, clock, "encode")  # type: ignore[method-assign]
    policy.decide = timed(policy.decide, clock, "denoise")  # type: ignore[method-assign]
    choices = sorted({1, cores()})
    default = (cores(), cores())
    shares: list[dict[str, float]] = []
    with ExitStack() as stack:
        vectors = {w: Recorded(stack.enter_context(VectorEnv(run.env, rl.num_envs, w)), clock) for w in choices}

        def one(threads: int, workers: int) -> float:
            torch.set_num_threads(threads)
            clock.clear()
            vectors[workers].calls.clear()
            spent = iterate(run, learner, policy, vectors[workers], clock)
            if (threads, workers) == default:
                shares.append({**clock, "all": spent})
            return spent

        for workers in choices:
            one(cores(), workers)
        shares.clear()
        grid = alternate({f"{t}, {w}": partial(one, t, w) for t, w in product(choices, choices)}, options.rounds)
        one(*default)
        drawing = drawing_share(run.env, vectors[cores()].calls)
    return [shares_row(shares[:-1], drawing, rl.num_envs, rl.episodes_per_iteration), *grid_rows(grid, default)]


def shares_row(shares: list[dict[str, float]], drawing: float, slots: int, episodes: int) -> Row:
    whole = statistics.median(row["all"] for row in shares)
    part = {name: statistics.median(row[name] / row["all"] for row in shares) for name in shares[0] if name != "all"}
    simulated = {"simulator": part["environments"] * (1 - drawing), "drawing": part.pop("environments") * drawing}
    part = {**simulated, **part}
    part["other"] = 1 - sum(part.values())
    return Row(
        "shares of an RL iteration",
        ", ".join(f"{name} {100 * value:.0f} %" for name, value in part.items()) + f" of {whole:.1f} s",
        how=f"laptop sizes, random weights: {slots} slots, {episodes} episodes, none ends early; "
        "simulator and drawing split as in a repeat in one process",
    )


def grid_rows(grid: dict[str, list[float]], default: tuple[int, int]) -> list[Row]:
    spent = {name: statistics.median(times) for name, times in grid.items()}
    best = min(spent, key=spent.__getitem__)
    chosen = spent[f"{default[0]}, {default[1]}"]
    return [
        Row(
            "seconds of an iteration by (threads of torch, workers)",
            "; ".join(f"({name}) {value:.1f}" for name, value in spent.items()),
            how="the same iteration, in turn in one process",
        ),
        Row(
            f"default ({default[0]}, {default[1]}) / fastest of them",
            f"{chosen / spent[best]:.2f} × ({best} is the fastest)",
            "≤ 1.05 ×",
            chosen / spent[best] <= 1.05,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("iteration", __doc__)
    add = parser.add_argument
    add("--slots", type=int, default=laptop().rl.num_envs, help="slots of the vector environment")
    add("--episodes", type=int, default=laptop().rl.episodes_per_iteration, help="episodes of an iteration")
    add("--rounds", type=int, default=2, help="measurements of each choice")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
