"""Rollouts whose slots play in two groups against one: the simulator works while the policy decides.

The simulators are real, MetaWorld with pictures on this machine's cores. The policy is one that sleeps, as the host of
a GPU does, for as long as a chunk of all slots takes to simulate.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np

from benchmarks.environments import vector_rate
from benchmarks.measure import Row, alternate, cores, part_parser, ratio, run_part, seconds
from benchmarks.setting import laptop
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.rl.rollout import Decide, play
from pirl_core.types import Episode, Observation

FACTOR = 1.6


def sleeping(cost: Callable[[int], float], chunk: int) -> Decide:
    """A policy of chunks that hold still, whose forward of B rows takes cost(B) seconds, and none of a core."""

    def decide(observation: Observation, episode: np.ndarray, decision: np.ndarray) -> np.ndarray:
        time.sleep(cost(len(episode)))
        return np.zeros((len(episode), chunk, 4), np.float32)

    return decide


def rows(options: argparse.Namespace) -> list[Row]:
    """Rows that a forward's time is proportional to, as in large batches, and one of which half is the same for any."""
    env = laptop().env.model_copy(update={"episode_steps": options.chunks * options.chunk})
    episodes = [Episode(env.tasks[n % len(env.tasks)], n) for n in range(options.slots)]
    with VectorEnv(env, options.slots) as envs:

        def rollout(decide: Decide, groups: int) -> float:
            envs.groups = groups
            return seconds(partial(play, envs, episodes, decide, None))

        # The first opens the simulators.
        vector_rate(envs, env.tasks, 1, options.chunk, np.random.default_rng(0))
        alone = [rollout(sleeping(lambda count: 0.0, options.chunk), 1) for _ in range(3)]
        whole = median(alone) / options.chunks
        costs: dict[str, Callable[[int], float]] = {
            "proportional to its rows": lambda count: whole * count / options.slots,
            "half of it whatever its rows": lambda count: whole * (1 + count / options.slots) / 2,
        }
        found = []
        for name, cost in costs.items():
            decide = sleeping(cost, options.chunk)
            sides: dict[str, Callable[[], float]] = {
                "two": partial(rollout, decide, 2),
                "one": partial(rollout, decide, 1),
            }
            found.append((name, alternate(sides, options.rounds)))
    return [
        Row(
            f"rollouts in one group / in two, a forward's time {name}",
            f"{(factor := ratio(spent['one'], spent['two'])):.2f} × "
            f"({median(spent['one']):.2f} / {median(spent['two']):.2f} s)",
            f"≥ {FACTOR:g} ×" if number == 0 else "",
            factor >= FACTOR if number == 0 else None,
            f"{options.slots} slots on {cores()} cores, {options.chunks} chunks of {options.chunk} steps, each with a "
            f"picture; a chunk of all slots is simulated in {1e3 * whole:.0f} ms, and as long a forward of all sleeps",
        )
        for number, (name, spent) in enumerate(found)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("overlap", __doc__)
    add = parser.add_argument
    add("--slots", type=int, default=16, help="slots of the vector environment")
    add("--chunk", type=int, default=10, help="actions of a chunk")
    add("--chunks", type=int, default=10, help="chunks of an episode")
    add("--rounds", type=int, default=7, help="measurements of each side")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
