"""SAC Flow beside the SAC of stable-baselines3: steps a second, and with --steps the returns at equal steps.

Both have critics of two layers of 256, batches of 256, four environments, and as many updates of the critics as steps;
the library's policy learns at each, ours at every second one, through four denoising steps.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.locomotion import SHOWN, setting, trained
from benchmarks.measure import Row, part_parser, ratio, run_part, seconds
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.evaluation.evaluate import mean_score, run_episodes, validation_episodes
from pirl_core.evaluation.players import deterministic
from pirl_core.params.file import Run
from pirl_core.policy.flow_policy import FlowPolicy

ENVS, EPISODES, ENOUGH = 4, 10, 0.8


def ours(task: str, chunk: int, count: int, starts: int, limit: int) -> Run:
    """``count`` iterations of ``chunk`` steps, of which the first ``starts`` are only remembered."""
    run = setting(task)
    sizes = {"decisions_per_iteration": chunk, "learning_starts": starts}
    sac = run.rl.sac.model_copy(update=sizes)
    rl = run.rl.model_copy(update={"iterations": count, "num_envs": ENVS, "validate_every": 1, "sac": sac})
    return run._replace(rl=rl, env=run.env.model_copy(update={"episode_steps": limit}))


def theirs(task: str, starts: int, seed: int) -> Any:
    worlds = make_vec_env(task, n_envs=ENVS, seed=seed)
    return SAC("MlpPolicy", worlds, learning_starts=starts, gradient_steps=ENVS, device="cpu", seed=seed)


def speed(task: str, chunk: int, rounds: int) -> Row:
    """The library takes its steps between our iterations, so that both meet the machine as it is."""
    library, spent, free = theirs(task, chunk, 0), {"ours": [0.0], "theirs": [0.0]}, [time.perf_counter()]

    def between(policy: FlowPolicy, envs: VectorEnv, iteration: int) -> float:
        if iteration:
            spent["ours"].append(time.perf_counter() - free[0])
        spent["theirs"].append(seconds(lambda: library.learn(chunk, reset_num_timesteps=False)))
        free[0] = time.perf_counter()
        return 0.0

    with tempfile.TemporaryDirectory() as folder:
        trained(ours(task, chunk, rounds + 1, chunk, chunk // ENVS), 0, Path(folder), between)
    # The first of each fills the memory and learns nothing.
    mine, other = spent["ours"][2:], spent["theirs"][2 : 2 + rounds]
    factor = ratio(other, mine)
    return Row(
        f"SAC Flow / stable-baselines3's SAC, steps a second, {task}",
        f"{factor:.2f} × ({chunk / np.median(mine):.0f} / {chunk / np.median(other):.0f})",
        how=f"{chunk} steps of each in turn, {rounds} times; {ENVS} environments, an update of the critics a step; "
        "median of the ratios of the rounds",
    )


def level(task: str, steps: int, seed: int, most: int) -> tuple[float, float]:
    """Mean returns of both without noise, after so many steps."""
    starts, chunk = min(steps // 10, 4000), ENVS * most
    run = ours(task, chunk, max(1, steps // chunk), starts, most)
    held_out = validation_episodes(run.env, seed, EPISODES)
    points = max(1, run.rl.iterations // 5)
    run = run._replace(rl=run.rl.model_copy(update={"validate_every": points}))
    found: list[float] = []

    def judged(policy: FlowPolicy, envs: VectorEnv, iteration: int) -> float:
        found.append(mean_score(run_episodes(deterministic(policy), envs, held_out), "return"))
        return found[-1]

    with tempfile.TemporaryDirectory() as folder:
        trained(run, seed, Path(folder), judged)
    library = theirs(task, starts, seed).learn(run.rl.iterations * chunk)
    other = float(evaluate_policy(library, make_vec_env(task, seed=seed + 1000), EPISODES)[0])
    curve = ", ".join(f"{value:.0f}" for value in found)
    print(f"{task}, seed {seed}: ours {curve} (every {points * chunk} steps), theirs {other:.0f}", flush=True)
    return found[-1], other


def rows(options: argparse.Namespace) -> list[Row]:
    found = [speed(task, options.chunk, options.rounds) for task in options.tasks]
    for task in options.tasks if options.steps else []:
        pairs = [level(task, options.steps, seed, options.limit) for seed in options.seeds]
        mine, other = (np.mean(side) for side in zip(*pairs, strict=True))
        told = "; ".join(f"{a:.0f} / {b:.0f}" for a, b in pairs)
        found.append(
            Row(
                f"SAC Flow / stable-baselines3's SAC, return after {options.steps} steps, {task}",
                f"{mine / other:.2f} × ({mine:.0f} / {other:.0f})",
                f"≥ {ENOUGH} ×",
                bool(mine >= ENOUGH * other),
                f"seeds {options.seeds}: {told}; {EPISODES} episodes each, without noise; ours was first shown {SHOWN} "
                "random steps",
            )
        )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("sac_library", __doc__)
    add = parser.add_argument
    add("--tasks", nargs="+", default=["HalfCheetah-v5"], help="Gymnasium's ids")
    add("--chunk", type=int, default=400, help="steps of each side in a round")
    add("--rounds", type=int, default=5, help="measurements of each side")
    add("--steps", type=int, default=0, help="compare returns after so many; 0: do not")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the returns")
    add("--limit", type=int, default=1000, help="steps of an episode")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
