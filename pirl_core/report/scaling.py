"""The picture of `pirl plan --simulate`: simulator steps a second over simulators, a line for each number of GPUs."""

from collections.abc import Sequence
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from pirl_core.plan.iteration import STEPS
from pirl_core.plan.sweep import Cell
from pirl_core.report.figures import INK, PRINT, SERIES, STYLE, TEXT, to_svg

MARKERS = dict(zip(STEPS, "o*PsXDv^", strict=True))


def picture(cells: Sequence[Cell]) -> str:
    """On white, both axes logarithmic; a marker tells what takes most of the iteration there."""
    found = [cell for cell in cells if cell.forecast is not None]
    gpus = sorted({cell.gpus for cell in found})
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        figure = Figure(figsize=(7.2, 4.2))
        axes = figure.add_subplot()
        lines = [Line2D([], [], color=_color(gpus, count), linestyle=_style(gpus, count)) for count in gpus]
        for count in gpus:
            points = [(cell.simulators, cell.forecast) for cell in found if cell.gpus == count]
            x, y = [at for at, _ in points], [said.sps for _, said in points if said]
            axes.plot(x, y, color=_color(gpus, count), linestyle=_style(gpus, count), linewidth=1.5)
            for at, said in points:
                if said:
                    axes.plot(at, said.sps, MARKERS[said.bottleneck], color=_color(gpus, count), markersize=6)
        axes.set_xscale("log")
        axes.set_yscale("log")
        ticks = sorted({cell.simulators for cell in found})
        axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("simulators")
        axes.set_title("simulator steps a second", loc="left", color=INK)
        seen = [step for step in STEPS if any(cell.forecast and cell.forecast.bottleneck == step for cell in found)]
        marks = [Line2D([], [], marker=MARKERS[step], color=TEXT, linestyle="") for step in seen]
        names = [*(f"{count} GPU{'s' * (count > 1)}" for count in gpus), *(f"most time: {step}" for step in seen)]
        figure.legend([*lines, *marks], names, loc="outside right upper", fontsize=8)
        return to_svg(figure, PRINT, scalable=False)


def _color(gpus: Sequence[int], count: int) -> str:
    return SERIES[gpus.index(count) % len(SERIES)]


def _style(gpus: Sequence[int], count: int) -> Literal["-", "--"]:
    """More lines than colours: the others are broken."""
    return "--" if gpus.index(count) >= len(SERIES) else "-"
