"""The model of `pirl plan --simulate` against real iterations: one and two ranks, one to four nodes of Ray.

The model is fed with costs that are measured apart (``benchmarks.costs``); nothing is fitted to the runs.
"""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.cluster import nodes
from benchmarks.costs import measure, ranks
from benchmarks.iteration import iterate
from benchmarks.measure import Row, cores, part_parser, run_part
from benchmarks.setting import laptop, random_policy
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.params.file import Run
from pirl_core.plan.costs import work_of
from pirl_core.plan.iteration import Costs, Layout, Work, forecast
from pirl_core.readers import variables
from pirl_core.rl.train import parameter_groups
from pirl_core.training.learner import Learner
from pirl_core.training.ranks import join, leave

TOLERANCE = 0.15


class Case(NamedTuple):
    """nodes: of Ray, with a worker each; 0: processes of this machine. workers: of each rank."""

    ranks: int
    workers: int
    nodes: int

    @property
    def name(self) -> str:
        where = f"{self.nodes} node{'s' * (self.nodes > 1)} of Ray" if self.nodes else f"{self.workers} local worker(s)"
        return f"{self.ranks} rank{'s' * (self.ranks > 1)}, {where}"


CASES = (Case(1, 2, 0), Case(2, 1, 0), Case(1, 1, 1), Case(1, 2, 2), Case(1, 4, 4))


def sized(slots: int, episodes: int) -> Run:
    """The laptop scale with fewer slots and episodes."""
    run = laptop()
    sizes = {"num_envs": slots, "episodes_per_iteration": episodes, "critic_warmup_iterations": 0}
    return run._replace(rl=run.rl.model_copy(update=sizes))


def play(slots: int, episodes: int, workers: int, rounds: int) -> None:
    """One rank: prints the seconds of rollouts and updates, after an iteration to warm up."""
    torch.set_num_threads(1)
    run = sized(slots, episodes)
    here, policy, rl = join(), random_policy(run, run.policy), run.rl
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    spent = []
    with VectorEnv(run.env, -(-rl.num_envs // here.size), workers) as envs:
        for _ in range(rounds + 1):
            clock = {"update": 0.0}
            spent.append((iterate(run, learner, policy, envs, clock), clock["update"]))
    if here.main:
        print(json.dumps(spent[1:]))
    if here.size > 1:
        leave()


def played(case: Case, slots: int, episodes: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of iterations, and of their updates."""
    code = f"from benchmarks.scaling import play; play({slots}, {episodes}, {case.workers}, {rounds})"
    found: list[tuple[float, float]]
    if not case.nodes:
        found = ranks(case.ranks, code)
        return found
    with ExitStack() as stack:
        os.environ["RAY_AUTH_MODE"] = "disabled"
        cluster = nodes(case.nodes)
        stack.callback(cluster.shutdown)
        found = ranks(case.ranks, code, **{variables.CLUSTER: "ray", "RAY_ADDRESS": cluster.address})
    return found


def layout_of(case: Case, slots: int) -> Layout:
    """Everything on this machine."""
    return Layout(case.ranks, -(-slots // case.ranks), case.workers, cores(), together=case.ranks, accelerated=False)


def rows(options: argparse.Namespace) -> list[Row]:
    run = sized(options.slots, options.episodes)
    costs, gradient = measure(run, options.rounds)
    found = [Row("costs, measured apart", ", ".join(f"{name} {value:.3g}" for name, value in costs._asdict().items()))]
    for case in CASES:
        if case.nodes and find_spec("ray") is None:
            found.append(Row(case.name, "not measured", how="Ray is not installed"))
            continue
        spent = played(case, options.slots, options.episodes, options.rounds)
        found.append(compared(case, costs, work_of(run, options.episodes, gradient), spent, options))
    return found


def compared(
    case: Case, costs: Costs, work: Work, spent: Sequence[tuple[float, float]], options: argparse.Namespace
) -> Row:
    said = forecast(costs, layout_of(case, options.slots), work, 0)
    took, updating = (median(part) for part in zip(*spent, strict=True))
    factor = said.seconds / took
    told = said.seconds * (said.shares["update"] + said.shares["all-reduce"])
    return Row(
        f"seconds of an iteration, foretold / measured: {case.name}",
        f"{factor:.2f} × ({said.seconds:.2f} / {took:.2f} s)",
        "0.85 to 1.15 ×",
        abs(factor - 1) <= TOLERANCE,
        f"update alone {told:.2f} / {updating:.2f} s; the model's bottleneck: {said.bottleneck}; laptop sizes, random"
        f" weights, {options.slots} slots, {options.episodes} episodes, {cores()} cores for all, a thread a rank",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("scaling", __doc__)
    add = parser.add_argument
    add("--slots", type=int, default=32, help="environments side by side, of all ranks")
    add("--episodes", type=int, default=64, help="episodes of an iteration")
    add("--rounds", type=int, default=3, help="iterations of each case, and measurements of each cost")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
