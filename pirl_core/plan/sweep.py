"""Iterations foretold for many machines: accelerators × simulators."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pirl_core.params.file import Run
from pirl_core.plan.costs import Machines, Measured, Sourced, costs_of, work_of
from pirl_core.plan.counted import Counted
from pirl_core.plan.iteration import Forecast, Layout, forecast

SEED = 0
"""Of the simulators' times: nobody learns from them, so it is no parameter."""


class Fleet(NamedTuple):
    """per_machine: accelerators of a machine. cores: that simulate, for each accelerator, of its machine or, with Ray,
    of another."""

    per_machine: int = 8
    cores: int = 16


class Cell(NamedTuple):
    """forecast: None where an accelerator would have no simulator."""

    gpus: int
    simulators: int
    forecast: Forecast | None


def cells(
    run: Run, measured: Measured, counts: Counted, fleet: Fleet, gpus: Sequence[int], simulators: Sequence[int]
) -> Iterator[Cell]:
    """One after another, a row of accelerators each. A slot plays as many episodes as params.yaml lets it."""
    rl = run.rl
    for ranks in gpus:
        costs = sourced(run, measured, counts, fleet, ranks).costs
        for count in simulators:
            if count < ranks:
                yield Cell(ranks, count, None)
                continue
            slots = -(-count // ranks)
            episodes = max(ranks, round(count * rl.episodes_per_iteration / rl.num_envs))
            layout = Layout(ranks, slots, min(fleet.cores, slots), fleet.cores, rl.env_groups)
            yield Cell(ranks, count, forecast(costs, layout, work_of(run, episodes, counts.gradient), SEED))


def sourced(run: Run, measured: Measured, counts: Counted, fleet: Fleet, ranks: int) -> Sourced:
    """The costs that so many ranks have."""
    return costs_of(run, measured, counts, Machines(), ranks <= fleet.per_machine)
