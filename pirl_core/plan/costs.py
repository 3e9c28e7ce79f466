"""Where the costs of a forecast come from: a file of what was measured, what is counted, and what is assumed.

The file is YAML, in seconds; `python -m benchmarks.costs --costs FILE` writes one, and a line may be mended by hand.
What it has not is counted or assumed, and told as that.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from pirl_core.errors import UserError
from pirl_core.params.file import Run
from pirl_core.plan.counted import Counted
from pirl_core.plan.iteration import Costs, Work
from pirl_core.plan.model import most_decisions
from pirl_core.readers.strict_yaml import read_yaml
from pirl_core.readers.typed import Strict, check

COMMITTED = Path(__file__).with_name("costs.yaml")
REMEDY = "write it by python -m benchmarks.costs --costs FILE"

Seconds = Annotated[float, Field(ge=0, le=1e6)]
Positive = Annotated[float, Field(gt=0, le=1e18)]


class Simulator(Strict):
    """Of one slot in a worker whose machine has nothing else to do. step: of the simulator. picture: what a chunk
    takes beside its steps, for each camera. pixels: a side of it. spread: of a chunk, std over mean."""

    reset: Seconds
    step: Seconds
    picture: Seconds
    pixels: int
    spread: Seconds


class Network(Strict):
    """Of a policy on an accelerator: fields as in `Costs`."""

    infer: Seconds
    infer_row: Seconds
    update: Seconds
    update_row: Seconds


class Measured(Strict):
    """about: on what machine and when. simulators: by the benchmark's name. policies: by family and size, `pi0 tiny`.
    The others as in `Costs`; hop, bandwidth: null where no link between accelerators was measured."""

    about: str
    crowding: Annotated[float, Field(ge=1, le=100)]
    message: Seconds
    row: Seconds
    latency: Seconds
    account: Seconds
    hop: Seconds | None
    bandwidth: Positive | None
    simulators: dict[str, Simulator]
    policies: dict[str, Network]


class Machines(NamedTuple):
    """Accelerators and links that were not measured. flops: a second, that a policy gets out of an accelerator.
    launch: seconds of the host for a kernel. inside, between: bytes a second of a rank's link, within a machine and
    beyond. hop: seconds of a message's way."""

    flops: float = 300e12
    launch: float = 10e-6
    inside: float = 200e9
    between: float = 25e9
    hop: float = 10e-6


class Sourced(NamedTuple):
    """costs, and of each where it is from: measured, counted or assumed."""

    costs: Costs
    sources: dict[str, str]


def read_costs(path: Path) -> Measured:
    """Raises UserError for a file that is no such thing."""
    place = f"--costs {path}"
    return check(Measured, read_yaml(path, place, REMEDY), place, REMEDY)


def costs_of(run: Run, measured: Measured, counts: Counted, machines: Machines, within: bool) -> Sourced:
    """Of this run's chunks and policy. within: whether all ranks are on one machine.

    Every core that simulates is taken to be busy, as is the rule: crowding counts in a chunk.
    Raises UserError for a simulator that was not measured.
    """
    name, env = run.env.benchmark, run.env
    simulator = measured.simulators.get(str(name))
    if simulator is None:
        known = ", ".join(measured.simulators)
        raise UserError(f"no costs of the simulator {name}, but of {known}; {REMEDY}, and give it with --costs")
    chunk = run.policy.replan * simulator.step + max(1, len(env.cameras)) * simulator.picture
    network = measured.policies.get(f"{run.policy.backbone} {run.policy.size}")
    said = "measured" if network else "counted"
    if network is None:
        infer, update = (
            (each.kernels * machines.launch, each.flops / machines.flops) for each in (counts.infer, counts.update)
        )
        network = Network(infer=infer[0], infer_row=infer[1], update=update[0], update_row=update[1])
    links = measured.hop is not None and measured.bandwidth is not None
    hop = measured.hop if measured.hop is not None else machines.hop
    bandwidth = measured.bandwidth or (machines.inside if within else machines.between)
    costs = Costs(
        reset=simulator.reset * measured.crowding,
        chunk=chunk * measured.crowding,
        spread=simulator.spread,
        crowding=1.0,
        message=measured.message,
        row=measured.row,
        latency=measured.latency,
        infer=network.infer,
        infer_row=network.infer_row,
        account=measured.account,
        update=network.update,
        update_row=network.update_row,
        hop=hop,
        bandwidth=bandwidth,
    )
    sources = dict.fromkeys(Costs._fields, "measured")
    sources |= dict.fromkeys(("infer", "infer_row", "update", "update_row"), said)
    sources |= {} if links else dict.fromkeys(("hop", "bandwidth"), "assumed")
    return Sourced(costs, sources)


def work_of(run: Run, episodes: int, gradient: float) -> Work:
    """An iteration of so many episodes of full length. Minibatches grow with them, so that the updates of an iteration
    stay as many as params.yaml has."""
    rl = run.rl
    minibatch = max(1, round(rl.minibatch_size * episodes / rl.episodes_per_iteration))
    bootstrap = rl.algorithm == "ppo" and rl.bootstrap_at_time_limit
    return Work(
        episodes,
        most_decisions(run),
        run.policy.replan,
        bootstrap,
        rl.update_epochs,
        minibatch,
        rl.micro_batch_size,
        gradient,
    )
