"""``pirl plan --simulate``: how fast an iteration would be with more GPUs and simulators, and what would hold it up."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pirl_core.errors import UserError
from pirl_core.files import write_text
from pirl_core.params.file import Run
from pirl_core.plan.costs import COMMITTED, Machines, Measured, read_costs, work_of
from pirl_core.plan.counted import Counted, counted
from pirl_core.plan.sweep import Cell, Fleet, cells, sourced

GPUS = (8, 16, 32, 64, 128, 256)
SIMULATORS = (64, 256, 1024, 4096, 10_000)
MOST_GPUS, MOST_SIMULATORS = 4096, 100_000
COLUMN = 24


def require(gpus: Sequence[int], simulators: Sequence[int], fleet: Fleet) -> None:
    """Raises UserError for numbers that make no machines."""
    for key, values, most in (("--gpus", gpus, MOST_GPUS), ("--simulators", simulators, MOST_SIMULATORS)):
        for value in values:
            if not 1 <= value <= most:
                raise UserError(f"{key} {value}: give numbers from 1 to {most}")
    for key, value in (
        ("--gpus-per-machine", fleet.per_machine),
        ("--cores-per-gpu", fleet.cores),
    ):
        if not 1 <= value <= MOST_GPUS:
            raise UserError(f"{key} {value}: give a number from 1 to {MOST_GPUS}")
    if max(simulators) < min(gpus):
        raise UserError(f"--simulators {max(simulators)}: fewer than --gpus {min(gpus)}; give each GPU one at least")


def lines(
    run: Run, gpus: Sequence[int], simulators: Sequence[int], fleet: Fleet, file: Path | None, figure: Path | None
) -> Iterator[str]:
    """What the command prints, as it gets ready. file: of costs; None: those of the project. figure: an SVG to write.

    Raises UserError for a file that holds no costs, for a simulator that it has not, and for SAC and
    simulation on the GPU, which are not modelled.
    """
    require(gpus, simulators, fleet)
    if run.rl.algorithm == "sac":
        raise UserError("--simulate: rl.algorithm = sac runs in one process, whose rollouts learn between decisions")
    if run.env.sim_backend == "gpu":
        raise UserError("--simulate: env.sim_backend = gpu simulates on the GPU, which is not modelled; give cpu")
    measured, counts = read_costs(file or COMMITTED), counted(run)
    yield from header(run, measured, fleet)
    yield from cost_lines(run, measured, counts, fleet, gpus)
    found = []
    if len(gpus) == len(simulators) == 1:
        found = list(cells(run, measured, counts, fleet, gpus, simulators))
        yield from whole(found[0])
    else:
        yield ""
        yield "simulator steps a second, what takes most of an iteration, and its share:"
        yield "GPUs" + "".join(f"{f'{count:,} simulators':>{COLUMN}}" for count in simulators)
        for ranks, row in groupby(cells(run, measured, counts, fleet, gpus, simulators), lambda cell: cell.gpus):
            line = list(row)
            found += line
            yield f"{ranks:<4}" + "".join(f"{short(cell):>{COLUMN}}" for cell in line)
    if figure is not None:
        from pirl_core.report.scaling import picture

        write_text(figure, picture(found))
        yield f"{figure}: the same as a picture"


def header(run: Run, measured: Measured, fleet: Fleet) -> Iterator[str]:
    rl, policy = run.rl, run.policy
    work = work_of(run, rl.episodes_per_iteration, 0.0)
    minibatches = -(-rl.episodes_per_iteration * work.decisions // rl.minibatch_size)
    yield (
        f"{policy.backbone}, size {policy.size}, {run.env.benchmark}: {work.decisions} decisions of {work.steps} steps"
        f" an episode, none ends early; {rl.episodes_per_iteration / rl.num_envs:g} episodes a simulator and iteration,"
        f" {rl.update_epochs} epochs of {minibatches} minibatches,"
        " which grow with the simulators; validation and checkpoints are left out"
    )
    yield (
        f"machines of {fleet.per_machine} GPUs, {fleet.cores} cores that simulate for each; DDP; rl.env_groups ="
        f" {rl.env_groups}"
    )


def cost_lines(run: Run, measured: Measured, counts: Counted, fleet: Fleet, gpus: Sequence[int]) -> Iterator[str]:
    """What was measured, what counted and what assumed."""
    machines, pixels = Machines(), f"pictures of {measured.simulators[str(run.env.benchmark)].pixels}²"
    costs, sources = sourced(run, measured, counts, fleet, min(gpus))
    wide = sourced(run, measured, counts, fleet, max(gpus)).costs

    def of(source: str) -> str:
        told = {
            "chunk": f"a chunk of a simulator {ms(costs.chunk)} ± {ms(costs.chunk * costs.spread)} with {pixels}",
            "reset": f"a reset {ms(costs.reset)}",
            "message": f"a message to a worker {ms(costs.message)} and {ms(costs.row)} a slot",
            "account": f"the advantage of a decision {ms(costs.account)}",
            "infer": f"a decision {ms(costs.infer)} and {ms(costs.infer_row)} a row",
            "update": f"a part of a minibatch {ms(costs.update)} and {ms(costs.update_row)} a row",
            "bandwidth": f"links of {costs.bandwidth / 1e9:g} GB/s"
            + (f", {wide.bandwidth / 1e9:g} beyond a machine" if wide.bandwidth != costs.bandwidth else ""),
            "hop": f"{ms(costs.hop)} a hop",
        }
        return ", ".join(text for name, text in told.items() if sources[name] == source)

    yield f"measured ({measured.about}): {of('measured')}"
    if said := of("counted"):
        yield (
            f"counted, and reckoned at {machines.flops / 1e12:g} TFLOP/s and {ms(machines.launch)} a kernel, which are"
            f" assumed: {said}; {counts.gradient / 2**20:.3g} MiB of gradients"
        )
    if said := of("assumed"):
        yield f"assumed: {said}"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms"


def short(cell: Cell) -> str:
    if cell.forecast is None:
        return "–"
    what = cell.forecast.bottleneck
    return f"{cell.forecast.sps:,.0f} {what} {100 * cell.forecast.shares[what]:.0f} %"


def whole(cell: Cell) -> Iterator[str]:
    """One forecast, share by share."""
    said = cell.forecast
    assert said is not None
    yield ""
    yield (
        f"{cell.gpus} GPUs, {cell.simulators} simulators: {said.seconds:.3g} s an iteration, {said.sps:,.0f} simulator"
        f" steps a second; bottleneck: {said.bottleneck}"
    )
    yield from (f"  {name:<12}{100 * share:6.1f} %" for name, share in said.shares.items())
