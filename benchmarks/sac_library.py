"""SAC Flow beside the SAC of stable-baselines3: steps a second, and with --results the returns after as many
steps as the scale's run made.

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
import pyarrow.parquet as pq
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from benchmarks.locomotion import setting, trained
from benchmarks.measure import Row, part_parser, ratio, run_part, seconds
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.file import Run
from pirl_core.policy.flow_policy import FlowPolicy

ENVS, EPISODES, ENOUGH = 4, 30, 0.8


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


def level(task: str, steps: int, seed: int) -> float:
    """The library's mean return without noise, after so many steps."""
    library = theirs(task, min(steps // 10, 4000), seed).learn(steps)
    found = float(evaluate_policy(library, make_vec_env(task, seed=seed + 1000), EPISODES)[0])
    print(f"{task}, seed {seed}: {found:.0f} after {steps} steps", flush=True)
    return found


def committed(task: str, results: Path) -> dict[int, tuple[int, float]]:
    """By training seed, steps and mean return of the policy that the scale's run ended with; {} without such a run."""
    if not (results / "episodes.parquet").exists():
        return {}
    wanted = [("method", "=", "sac_flow"), ("task", "=", task), ("split", "=", "id")]
    played = pq.read_table(results / "episodes.parquet", filters=wanted).to_pandas()
    curves = pq.read_table(results / "curves.parquet", filters=[("metric", "=", "charts/total_steps")]).to_pandas()
    curves = curves[curves.experiment.isin(played.experiment)]
    steps, returns = curves.groupby("seed").value.max(), played.groupby("seed")["return"].mean()
    return {int(seed): (int(steps[seed]), float(returns[seed])) for seed in returns.index}


def returns(task: str, results: Path) -> Row:
    name, goal = f"SAC Flow / stable-baselines3's SAC, return after as many steps, {task}", f"≥ {ENOUGH} ×"
    found = committed(task, results)
    if not found:
        return Row(name, "not measured", goal, None, f"no run in {results}")
    mine, most = [value for _, value in found.values()], max(steps for steps, _ in found.values())
    other = [level(task, steps, seed) for seed, (steps, _) in found.items()]
    factor = float(np.mean(mine) / np.mean(other))
    told = "; ".join(f"{a:.0f} / {b:.0f}" for a, b in zip(mine, other, strict=True))
    return Row(
        name,
        f"{factor:.2f} × ({np.mean(mine):.0f} / {np.mean(other):.0f})",
        goal,
        factor >= ENOUGH,
        f"seeds {', '.join(map(str, found))}: {told}; {most} steps at most, without noise, {EPISODES} episodes of "
        f"theirs; ours are those of {results}",
    )


def rows(options: argparse.Namespace) -> list[Row]:
    found = [speed(task, options.chunk, options.rounds) for task in options.tasks] if options.rounds else []
    return found + [returns(task, options.results) for task in options.tasks if options.results]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("sac_library", __doc__)
    add = parser.add_argument
    add("--tasks", nargs="+", default=["HalfCheetah-v5"], help="Gymnasium's ids")
    add("--chunk", type=int, default=400, help="steps of each side in a round")
    add("--rounds", type=int, default=5, help="measurements of each side; 0: no speed")
    add("--results", type=Path, help="compare returns with those of a run there, results/sac_flow; none: do not")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
