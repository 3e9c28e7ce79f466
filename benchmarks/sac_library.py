"""SAC Flow beside the SAC of stable-baselines3: steps a second, and with --steps the returns beside those that
the scale's run left in results/.

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
import pyarrow.compute as pc
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
    print(f"{task}, seed {seed}: {found:.0f}", flush=True)
    return found


def committed(task: str, seeds: Sequence[int], results: Path) -> list[float]:
    """Our mean return of each seed, as the scale's run left it; [] where one is missing."""
    file = results / "episodes.parquet"
    if not file.exists():
        return []
    played = pq.read_table(file, filters=[("method", "=", "sac_flow"), ("task", "=", task), ("split", "=", "id")])
    returns = {seed: played.filter(pc.field("seed") == seed)["return"].to_numpy() for seed in seeds}
    return [float(of.mean()) for of in returns.values()] if all(map(len, returns.values())) else []


def returns(task: str, steps: int, seeds: Sequence[int], results: Path) -> Row:
    rl = setting(task).rl
    own = rl.iterations * rl.sac.decisions_per_iteration
    name = f"SAC Flow / stable-baselines3's SAC, return after {steps} steps, {task}"
    mine = committed(task, seeds, results)
    if not mine or own != steps:
        return Row(name, "not measured", f"≥ {ENOUGH} ×", None, f"{results} has {len(mine)} seeds of {own} steps")
    other = [level(task, steps, seed) for seed in seeds]
    factor = float(np.mean(mine) / np.mean(other))
    told = "; ".join(f"{a:.0f} / {b:.0f}" for a, b in zip(mine, other, strict=True))
    return Row(
        name,
        f"{factor:.2f} × ({np.mean(mine):.0f} / {np.mean(other):.0f})",
        f"≥ {ENOUGH} ×",
        factor >= ENOUGH,
        f"seeds {', '.join(map(str, seeds))}: {told}; without noise, {EPISODES} episodes of theirs; ours are those of "
        f"{results}",
    )


def rows(options: argparse.Namespace) -> list[Row]:
    found = [speed(task, options.chunk, options.rounds) for task in options.tasks] if options.rounds else []
    if options.steps:
        found += [returns(task, options.steps, options.seeds, options.results) for task in options.tasks]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("sac_library", __doc__)
    add = parser.add_argument
    add("--tasks", nargs="+", default=["HalfCheetah-v5"], help="Gymnasium's ids")
    add("--chunk", type=int, default=400, help="steps of each side in a round")
    add("--rounds", type=int, default=5, help="measurements of each side; 0: no speed")
    add("--steps", type=int, default=0, help="compare returns after so many; 0: do not")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the returns")
    add("--results", type=Path, default=Path("results/sac_flow"), help="where our returns are")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
