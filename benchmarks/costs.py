"""What the parts of an RL iteration cost, each measured apart: `pirl plan --simulate` reckons with them.

The simulator behind one worker, what the trainer spends on a message, inference and update at two batch sizes each, and
an all-reduce between two ranks. ``--costs FILE`` keeps them for `pirl plan --simulate --costs FILE`.
"""

import argparse
import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
import yaml

from benchmarks.measure import Row, alternate, part_parser, run_part, seconds
from benchmarks.setting import Still, laptop, random_observation, random_policy, wait_for_device
from benchmarks.simulators import SCALES
from pirl_core.envs.opening import settings_of
from pirl_core.envs.vector.processes import WORKER_ENVIRONMENT
from pirl_core.envs.vector.slots import VectorEnv
from pirl_core.envs.vector.worker import Slots
from pirl_core.facts import facts_of
from pirl_core.files import write_text
from pirl_core.params.file import Run, resolve
from pirl_core.params.preset import load_preset
from pirl_core.params.sections import Env
from pirl_core.plan.costs import Measured, Network, Simulator
from pirl_core.plan.iteration import Costs
from pirl_core.provenance.machine import machine
from pirl_core.provenance.revision import revision
from pirl_core.rl import collect as collecting
from pirl_core.rl import rollout as rollouts
from pirl_core.rl.collect import Rollout, Share, collect
from pirl_core.rl.train import iteration_episodes, noise_at, parameter_groups, process_of
from pirl_core.rl.update import update
from pirl_core.training.learner import Learner
from pirl_core.training.ranks import join
from pirl_core.types import ChunkResult, Episode

UNITS = {
    "reset": "ms a slot", "chunk": "ms a slot", "spread": "std of a chunk over mean", "crowding": "× where all work",
    "message": "ms of the trainer a worker", "row": "ms of the trainer a slot", "latency": "ms there and back",
    "infer": "ms a decision", "infer_row": "ms a slot", "account": "ms a decision of any rank",
    "update": "ms a minibatch", "update_row": "ms a decision", "hop": "ms", "bandwidth": "MB/s",
}  # fmt: skip
FEW, MANY = 8, 32
"""Slots of a batch: two sizes, for what a batch costs and what a row of it."""


def line(few: float, many: float, sizes: tuple[int, int] = (FEW, MANY)) -> tuple[float, float]:
    """Seconds of nothing and of each more, from those of two sizes; neither below 0."""
    slope = max(0.0, (many - few) / (sizes[1] - sizes[0]))
    return max(0.0, few - slope * sizes[0]), slope


class Simulating(NamedTuple):
    """Seconds, as `Costs` has them."""

    reset: float
    chunk: float
    spread: float
    crowding: float
    message: float
    row: float
    latency: float


def begun(env: Env, slots: Sequence[int]) -> list[Episode]:
    return [Episode(env.tasks[slot % len(env.tasks)], slot) for slot in slots]


def played(envs: VectorEnv, env: Env, count: int, chunks: int, length: int) -> list[tuple[float, float, float]]:
    """Of a reset and of ``chunks`` chunks in ``count`` slots: seconds, of these the trainer's own, and which it was.
    What ends early is started anew, untimed."""
    rng, live, found = np.random.default_rng(0), list(range(count)), []
    shape = (count, length, len(facts_of(env.benchmark).action))
    for number in range(chunks + 1):
        actions = rng.uniform(-1, 1, shape).astype(np.float32)
        own, begin = time.process_time(), time.perf_counter()
        result = envs.step(live, actions) if number else envs.reset(live, begun(env, live))
        found.append((time.perf_counter() - begin, time.process_time() - own, float(number > 0)))
        if isinstance(result, ChunkResult):
            ended = np.flatnonzero(result.terminated | result.truncated).tolist()
            if ended:
                envs.reset(ended, begun(env, ended))
    return found


def simulating(env: Env, length: int, chunks: int, rounds: int) -> Simulating:
    """Of one worker, and of two at once. Episodes that end early would leave slots idle: none does by its time."""
    env = env.model_copy(update={"episode_steps": (chunks + 1) * length})
    with VectorEnv(env, MANY, 1) as one, VectorEnv(env, 2 * MANY, 2) as two:
        sides: dict[str, Callable[[], Any]] = {
            "few": lambda: played(one, env, FEW, chunks, length),
            "many": lambda: played(one, env, MANY, chunks, length),
            "both": lambda: played(two, env, 2 * MANY, chunks, length),
        }
        for side in sides.values():
            side()
        spent = {name: np.concatenate(parts) for name, parts in alternate(sides, rounds).items()}

    def of(side: str, column: int, stepped: bool) -> float:
        chosen = spent[side][spent[side][:, 2] == stepped]
        return float(np.median(chosen[:, column]))

    message, row = line(of("few", 1, True), of("many", 1, True))
    working = {side: of(side, 0, True) - of(side, 1, True) for side in spent}
    latency, chunk = line(working["few"], working["many"])
    reset = (of("many", 0, False) - of("many", 1, False) - latency) / MANY
    crowding = max(1.0, (working["both"] - latency) / (working["many"] - latency))
    return Simulating(max(0.0, reset), chunk, spread(env, length, chunks), crowding, message, row, latency)


def spread(env: Env, length: int, chunks: int) -> float:
    """Std over mean of a slot's chunk, in this process; by quantiles: a machine has other things to do."""
    slots = Slots(settings_of(env))
    rng = np.random.default_rng(0)
    found = []
    for turn in range(2):
        slots.reset(list(enumerate(begun(env, range(FEW)))))
        for _ in range(chunks):
            for slot in range(FEW):
                chunk = rng.uniform(-1, 1, (1, length, len(facts_of(env.benchmark).action))).astype(np.float32)
                begin = time.perf_counter()
                outcome = slots.step([slot], chunk)
                found += [time.perf_counter() - begin] if turn else []
                if outcome.terminated[0] or outcome.truncated[0]:
                    slots.reset([(slot, begun(env, [slot])[0])])
    slots.clear()
    low, middle, high = np.quantile(found, (0.16, 0.5, 0.84))
    return float((high - low) / 2 / middle)


class Learning(NamedTuple):
    """As `Costs` has them; gradient: bytes."""

    infer: float
    infer_row: float
    account: float
    update: float
    update_row: float
    gradient: float


def learning(run: Run, decisions: int, rounds: int) -> Learning:
    """Rollouts without a simulator, and updates on what they found."""
    rl = run.rl.model_copy(update={"episodes_per_iteration": MANY})
    policy = random_policy(run, run.policy)
    learner = Learner(policy, parameter_groups(policy, rl), rl.weight_decay, rl.max_grad_norm, rl.precision, 0)
    process, noise = process_of(rl), noise_at(rl, 0)
    kept: list[tuple[Rollout, Share]] = []

    def roll(count: int) -> tuple[float, float]:
        """Seconds of play, and of what follows, per decision."""
        clock = [0.0]
        play = rollouts.play

        def timed(*arguments: Any) -> Any:
            begin = time.perf_counter()
            steps = play(*arguments)
            wait_for_device()
            clock[0] = time.perf_counter() - begin
            return steps

        still = Still(random_observation(run, count), decisions)
        episodes = iteration_episodes(run.env.tasks, run.env.shift, rl, 0, 0)[:count]
        with patch.object(collecting, "play", timed):
            begin = time.perf_counter()
            rollout, share, _ = collect(policy, still, episodes, noise, process, rl, (0, 0))
            wait_for_device()
        kept[:] = [(rollout, share)]
        return clock[0], (time.perf_counter() - begin - clock[0]) / (count * decisions)

    def learn(size: int) -> float:
        """Seconds of a minibatch."""
        rollout, share = kept[0]
        one = rl.model_copy(update={"minibatch_size": size, "update_epochs": 1})
        count = -(-len(share.owner) // size)
        arguments = (learner, rollout, share, noise, process, one, np.random.default_rng(0), False, 0)

        def work() -> None:
            update(*arguments)
            wait_for_device()

        return seconds(work) / count

    sizes = (MANY * decisions // 8, MANY * decisions)
    rolls: dict[str, Callable[[], tuple[float, float]]] = {"few": lambda: roll(FEW), "many": lambda: roll(MANY)}
    learns: dict[str, Callable[[], float]] = {"few": lambda: learn(sizes[0]), "many": lambda: learn(sizes[1])}
    alternate(rolls, 1)
    alternate(learns, 1)
    rolled = alternate(rolls, rounds)
    roll(MANY)
    learned = alternate(learns, rounds)
    inferred = [median(part[0] for part in rolled[name]) / decisions for name in ("few", "many")]
    infer = line(inferred[0], inferred[1])
    # What ranks tell one another is packed and unpacked by each.
    told = [(0, 0, 0.5, 10, False, False, 0.1, 0.2, 0)] * 1000
    packing = seconds(lambda: pickle.loads(pickle.dumps(told))) / len(told)
    account = median(part[1] for part in rolled["many"]) + packing
    learnt = line(median(learned["few"]), median(learned["many"]), sizes)
    gradient = sum(parameter.nbytes for parameter in policy.parameters() if parameter.requires_grad)
    return Learning(*infer, account, *learnt, float(gradient))


def ranks(count: int, code: str, **environment: str) -> Any:
    """What rank 0 of so many processes that run this line of Python prints, as JSON."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    meeting |= {"LOCAL_WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(count):
        place = {**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {"OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code], env={**os.environ, **environment, **place}, stdout=subprocess.PIPE
            )
        )
    said = [process.communicate(timeout=500)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError(f"a rank failed: {code}")
    return json.loads(said[0])


def exchange(sizes: Sequence[int], rounds: int) -> None:
    """One of two ranks: prints the median seconds of an all-reduce of each size, in bytes."""
    here = join()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = []
    for size in sizes:
        tensor = torch.zeros(size // 4, device=device)
        spent = []

        def work(tensor: torch.Tensor = tensor) -> None:
            torch.distributed.all_reduce(tensor)
            wait_for_device()

        for _ in range(rounds):
            torch.distributed.barrier()
            spent.append(seconds(work))
        found.append(median(spent))
    if here.main:
        print(json.dumps(found))
    torch.distributed.destroy_process_group()


def exchanging(gradient: float, rounds: int = 30) -> tuple[float, float]:
    """Seconds of a hop, and bytes a second, from all-reduces of two ranks: of four bytes, and of the gradients."""
    small, large = ranks(2, f"from benchmarks.costs import exchange; exchange([4, {int(gradient)}], {rounds})")
    return small / 2, gradient / max(1e-9, large - small)


def measure(run: Run, rounds: int) -> tuple[Costs, float]:
    """On this machine, with one thread of torch; and the bytes of the gradients."""
    torch.set_num_threads(1)
    decisions = -(-run.env.episode_steps // run.policy.replan)
    parts = learning(run, decisions, rounds)
    hop, bandwidth = exchanging(parts.gradient)
    simulators = simulating(run.env, run.policy.replan, decisions, rounds)
    paid = {name: value for name, value in parts._asdict().items() if name != "gradient"}
    return Costs(**simulators._asdict(), **paid, hop=hop, bandwidth=bandwidth), parts.gradient


def simulator(scale: str, slots: int, chunks: int, rounds: int) -> tuple[str, Simulator]:
    """Of the preset's first experiment, behind one worker: chunks of two lengths tell steps from the rest."""
    params = load_preset(scale)
    run = resolve(params, next(iter(params.experiments)))
    env, length = run.env, run.policy.replan
    env = env.model_copy(update={"episode_steps": 2 * (chunks + 1) * length, "sim_backend": "cpu"})
    with VectorEnv(env, slots, 1) as envs:
        sides: dict[str, Callable[[], Any]] = {
            "short": lambda: played(envs, env, slots, chunks, length),
            "long": lambda: played(envs, env, slots, chunks, 2 * length),
        }
        sides["short"]()
        spent = {name: np.concatenate(parts) for name, parts in alternate(sides, rounds).items()}
    short, long = (
        float(np.median([wall - own for wall, own, stepped in spent[name] if stepped])) / slots for name in sides
    )
    resets = [wall - own for wall, own, stepped in spent["short"] if not stepped]
    step = max(0.0, (long - short) / length)
    picture = max(0.0, short - length * step) / max(1, len(env.cameras))
    reset = float(np.median(resets)) / slots
    found = {"reset": reset, "step": step, "picture": picture, "spread": spread(env, length, chunks)}
    return str(env.benchmark), Simulator(pixels=env.image_size, **{key: rounded(x) for key, x in found.items()})


def scaled(name: str, value: float) -> float:
    """In the unit that UNITS says."""
    return value * (1e3 if UNITS[name].startswith("ms") else 1e-6 if UNITS[name].startswith("MB") else 1.0)


def rounded(value: float) -> float:
    """To three digits: no more was measured."""
    return float(f"{value:.3g}")


def rows(options: argparse.Namespace) -> list[Row]:
    load, run = os.getloadavg()[0], laptop()
    run = run._replace(rl=run.rl.model_copy(update={"critic_warmup_iterations": 0}))
    costs, _ = measure(run, options.rounds)
    how = "laptop sizes, random weights, a thread of torch; all-reduces of two ranks"
    found = [
        Row(f"{name}: {UNITS[name]}", f"{scaled(name, value):.3g}", how=how) for name, value in costs._asdict().items()
    ]
    simulators: dict[str, Simulator] = {}
    # As in a worker: a simulator keeps its process to itself, and the threads that a worker has.
    with patch.dict(os.environ, WORKER_ENVIRONMENT):
        for scale in options.scales:
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                job = pool.submit(simulator, scale, options.slots, options.chunks, options.rounds)
                simulators |= [job.result()]
    found += [
        Row(
            f"{name}: ms of a reset, a step, a picture ({each.pixels}²), behind one worker",
            f"{1e3 * each.reset:.3g}, {1e3 * each.step:.3g}, {1e3 * each.picture:.3g}",
            how=f"std of a chunk {100 * each.spread:.0f} % of it",
        )
        for name, each in simulators.items()
    ]
    if options.costs:
        keep(options.costs, run, costs, simulators, load)
    return found


def keep(path: Path, run: Run, costs: Costs, simulators: dict[str, Simulator], load: float) -> None:
    """For ``pirl plan --simulate``. Policy and links count where they were an accelerator's."""
    here = machine()
    about = (
        f"{here['cpu']}, {here['cores']} cores, {time.strftime('%Y-%m-%d', time.gmtime())}, revision {revision()}, load"
        f" before the start {load:.1f}"
    )
    fast = torch.cuda.is_available()
    each = {name: rounded(value) for name, value in costs._asdict().items()}
    network = Network(**{name: each[name] for name in Network.model_fields})
    links = fast and torch.cuda.device_count() > 1
    found = Measured(
        about=about,
        **{name: each[name] for name in ("crowding", "message", "row", "latency", "account")},
        hop=each["hop"] if links else None,
        bandwidth=each["bandwidth"] if links else None,
        simulators=simulators,
        policies={f"{run.policy.backbone} {run.policy.size}": network} if fast else {},
    )
    note = "# Seconds, as pirl_core/plan/costs.py says: python -m benchmarks.costs --costs FILE\n"
    write_text(path, note + yaml.safe_dump(found.model_dump(), sort_keys=False, allow_unicode=True))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = part_parser("costs", __doc__)
    add = parser.add_argument
    add("--scales", nargs="*", choices=SCALES, default=SCALES, help="whose simulators are measured")
    add("--slots", type=int, default=4, help="slots of a simulator's worker")
    add("--chunks", type=int, default=3, help="chunks that each of them plays")
    add("--rounds", type=int, default=3, help="measurements of each cost")
    add("--costs", type=Path, metavar="FILE", help="write them for pirl plan --simulate")
    run_part(parser, rows, arguments)


if __name__ == "__main__":
    main()
