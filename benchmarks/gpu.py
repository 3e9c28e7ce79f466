"""π0 at its published size on one GPU: rollouts and updates by where contexts lie, memory against ``pirl plan``,
torch.compile, and ManiSkill's batched simulation. About ten minutes; nothing of it is measured where there is no GPU.

``--size tiny`` runs the same on whatever there is, to see that it runs.
"""

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.environments import vector_rate
from benchmarks.full_size import paper
from benchmarks.measure import Row, part_parser, run_part, seconds
from benchmarks.setting import Still, laptop, random_observation, random_policy, wait_for_device
from pirl_core.commands.plan import OVERHEAD_GIB, rl_need
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.file import Run
from pirl_core.policy.layers import way_to_run
from pirl_core.policy.precision import round_weights
from pirl_core.rl.collect import collect
from pirl_core.rl.train import iteration_episodes, noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner, compute_device

GIB = 2**30
PLACES = {"on the GPU": (64.0, 0.0), "in host memory": (0.0, 64.0), "computed again": (0.0, 0.0)}
"""context_device_gib and context_host_gib, which hold all of one place."""
SLOTS = (16, 64, 256)


class Spent(NamedTuple):
    """Seconds of a rollout and of an update, of the decisions of one iteration; peak and plan in GiB."""

    rollout: float
    update: float
    decisions: int
    peak: float
    plan: float


def iteration(run: Run, decisions: int, rounds: int) -> Spent:
    """Best of the rounds, after one to warm up."""
    rl, device = run.rl, compute_device()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    policy = random_policy(run, run.policy).to(device)
    round_weights(policy, rl.precision)
    policy.backbone.run_layer = way_to_run(rl.activation_checkpointing, rl.compile, device)
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    process, noise, envs = process_of(rl), noise_at(rl, 0), Still(random_observation(run, rl.num_envs), decisions)
    episodes = iteration_episodes(run.env.tasks, run.env.shift, rl, 0, 0)
    spent = []
    for _ in range(rounds + 1):
        made: list[tuple[object, ...]] = []

        def roll(made: list[tuple[object, ...]] = made) -> None:
            made.append(collect(policy, envs, episodes, noise, process, rl, (0, 2, 0)))
            wait_for_device()

        def learn(made: list[tuple[object, ...]] = made) -> None:
            rollout, share, _ = made.pop()
            update(learner, rollout, share, noise, process, rl, np.random.default_rng(0), False, 0)  # type: ignore[arg-type]
            wait_for_device()

        spent.append((seconds(roll), seconds(learn)))
    best = [min(times) for times in zip(*spent[1:], strict=True)]
    peak = torch.cuda.max_memory_allocated() / GIB if on_gpu else float("nan")
    plan = rl_need(run, 1).peak / GIB + OVERHEAD_GIB
    return Spent(best[0], best[1], decisions * len(episodes), peak, plan)


def learning(options: argparse.Namespace, folder: Path) -> list[Row]:
    run = paper("pi0", options.size, folder)
    steps = options.decisions * run.policy.replan
    sizes = {"num_envs": options.slots, "episodes_per_iteration": options.slots, "update_epochs": 1, "target_kl": None,
             "minibatch_size": options.minibatch, "micro_batch_size": options.micro}  # fmt: skip
    run = run._replace(env=run.env.model_copy(update={"episode_steps": steps}))
    found: dict[str, Spent] = {}
    for name, (on_device, on_host) in PLACES.items():
        own = sizes | {"context_device_gib": on_device, "context_host_gib": on_host}
        found[name] = iteration(run._replace(rl=run.rl.model_copy(update=own)), options.decisions, options.rounds)
    kept = found["on the GPU"]
    how = (
        f"π0, {options.size}, {run.rl.precision}: {kept.decisions} decisions, minibatches of {options.minibatch} in "
        f"parts of {options.micro}, simulators that cost nothing"
    )
    rows = [
        Row(
            f"decisions a second in rollouts, and in updates, contexts {name}",
            f"{spent.decisions / spent.rollout:.1f}, {spent.decisions / spent.update:.1f}",
            how=how,
        )
        for name, spent in found.items()
    ]
    rows += [
        Row(
            f"memory at the peak / what pirl plan says, contexts {name}",
            f"{spent.peak / spent.plan:.2f} × ({spent.peak:.1f} / {spent.plan:.1f} GiB)",
            "0.85 to 1 ×",
            0.85 <= spent.peak / spent.plan <= 1,
            "the plan has 2 GiB of CUDA's own, which torch does not count",
        )
        for name, spent in found.items()
        if spent.peak == spent.peak
    ]
    if torch.cuda.is_available():  # for a CPU it compiles for minutes
        own = sizes | {"context_device_gib": PLACES["on the GPU"][0], "context_host_gib": 0.0, "compile": True}
        compiled = iteration(run._replace(rl=run.rl.model_copy(update=own)), options.decisions, options.rounds)
        rows.append(
            Row(
                "a rollout, and an update, without torch.compile / with it",
                f"{kept.rollout / compiled.rollout:.2f} ×, {kept.update / compiled.update:.2f} ×",
                how="contexts on the GPU; what compiling takes is left out",
            )
        )
    return rows


def simulating(options: argparse.Namespace) -> list[Row]:
    """Steps a second of one task with a picture a chunk, on the GPU and by this machine's cores."""
    if not torch.cuda.is_available() or find_spec("mani_skill") is None:
        return [Row("ManiSkill's steps a second on the GPU", "not measured", how="no GPU, or no mani_skill")]
    rates: dict[str, float] = {}
    for backend, slots in [*(("gpu", slots) for slots in SLOTS), ("cpu", 16)]:
        own = {"benchmark": "maniskill", "tasks": ["PickCube-v1"], "cameras": ["base_camera"], "sim_backend": backend}
        env = laptop().env.model_copy(update=own)
        with VectorEnv(env, slots) as envs:
            rate = partial(vector_rate, envs, env.tasks, 4, 10, np.random.default_rng(0))
            rate()
            rates[f"{slots} by {backend}"] = median(rate() for _ in range(options.rounds))
    told = ", ".join(f"{rate:.0f} ({name})" for name, rate in rates.items())
    return [Row("ManiSkill's steps a second", told, how="PickCube-v1, chunks of 10 steps with a picture")]


def rows(options: argparse.Namespace) -> list[Row]:
    if options.size == "full" and not torch.cuda.is_available():
        return [Row("full π0 on a GPU", "not measured", how="torch sees no GPU")]
    with tempfile.TemporaryDirectory() as folder:
        return [*learning(options, Path(folder)), *simulating(options)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("gpu", __doc__)
    add = parser.add_argument
    add("--size", default="full", help="policy.size")
    add("--slots", type=int, default=32, help="environments side by side, each of which plays one episode")
    add("--decisions", type=int, default=20, help="of an episode")
    add("--minibatch", type=int, default=128, help="decisions of an update")
    add("--micro", type=int, default=32, help="decisions of a forward pass")
    add("--rounds", type=int, default=2, help="measurements of each")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
