"""Memory of an RL run and its workers over many iterations, in which slots change tasks all the time."""

import argparse
import io
import tempfile
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import Row, part_parser, run_part
from benchmarks.setting import laptop, random_policy, supervision
from pirl_core.envs.metaworld.facts import TASKS
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.rl.train import chooses, train_rl
from pirl_core.training.session import open_session

FLAT = 10.0
"""MiB per 100 iterations; the leak that was mended here grew by gigabytes, a single simulator is 20 MiB."""


def tree_mib() -> float:
    """Memory of this process and its workers; pages that they share count once."""
    me = psutil.Process()
    return sum(float(process.memory_full_info().pss) for process in (me, *me.children(recursive=True))) / 2**20


def rows(options: argparse.Namespace) -> list[Row]:
    run = laptop()
    tasks = sorted(TASKS)[: options.tasks]
    run = run._replace(
        env=run.env.model_copy(update={"tasks": tasks, "episode_steps": options.steps}),
        rl=run.rl.model_copy(
            update={
                "iterations": options.iterations,
                "num_envs": options.slots,
                "episodes_per_iteration": len(tasks),
                "update_epochs": 1,
                "validate_every": 1,
            }
        ),
    )
    policy = random_policy(run, run.policy)
    samples: list[float] = []

    def sample(iteration: int) -> dict[str, float]:
        """Stands where the loop validates."""
        samples.append(tree_mib())
        return {chooses("success"): 0.0}

    with tempfile.TemporaryDirectory() as folder, chdir(folder), VectorEnv(run.env, options.slots) as envs:
        session = open_session("rl", "memory", "", {}, supervision(), options.iterations, Path("policy"), Path("log"))
        with redirect_stdout(io.StringIO()), session as opened:
            train_rl(policy, envs, tasks, "none", run.rl, 0, opened, sample, on_improved=lambda: None)
    half = samples[len(samples) // 2 :]
    slope = 100 * float(np.polyfit(np.arange(len(half)), half, 1)[0])
    start, middle, end = samples[1], half[0], samples[-1]
    return [
        Row(
            f"memory over {options.iterations} RL iterations, growth in the last half",
            f"{slope:+.1f} MiB per 100 iterations ({start:.0f} → {middle:.0f} → {end:.0f} MiB)",
            f"< {FLAT:.0f} MiB",
            slope < FLAT,
            f"PSS of the process and its workers, after the 1st, the middle and the last iteration; {options.slots} "
            f"slots, {len(tasks)} episodes of as many tasks each",
        )
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("memory", __doc__)
    add = parser.add_argument
    add("--iterations", type=int, default=200, help="RL iterations; the second half counts")
    add("--tasks", type=int, default=12, help="tasks, one episode each an iteration")
    add("--slots", type=int, default=6, help="slots of the vector environment; fewer than tasks, so that they change")
    add("--steps", type=int, default=20, help="simulator steps of an episode")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
