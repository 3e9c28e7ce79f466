"""A paper's figure drawn from our curves: panels of a metric, one line a series."""

from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from pirl_core.report.evidence import Evidence, absent, curve
from pirl_core.report.figures import INK, PAGE, PRINT, SERIES, STYLE, Panel, canvas, mean_curve, to_svg
from pirl_core.report.papers.schema import Draw, Figure, draw_of
from pirl_core.report.twins import for_twin

Points = list[tuple[float, float]]
IN_PER_CENT = ("validation/", "charts/success")

THIN = 60
"""Points of one seed's line at most: a page has hundreds of them."""


class Line(NamedTuple):
    """One series in one panel. seeds: curve of each training seed; spread: half-width of a band around their mean."""

    label: str
    color: str
    seeds: list[Points]
    spread: list[Points]


class Lines(NamedTuple):
    """One panel. percent: its rates are fractions, drawn from 0 to 100. missing: why lines are absent."""

    title: str
    percent: bool
    lines: list[Line]
    missing: list[str]


def read_lines(figure: Figure, evidence: Evidence) -> list[Lines]:
    """The figure's panels as the evidence has them."""
    panels = []
    for panel in figure.panels:
        lines, missing = [], []
        for index, series in enumerate(figure.series):
            draw = draw_of(figure, panel, series)
            seeds = _read(evidence, draw, str(draw.metric))
            if seeds:
                spread = _read(evidence, draw, draw.spread) if draw.spread else []
                lines.append(Line(series.label, color_of(index), seeds, spread))
            else:
                missing.append(_why(evidence, draw))
        metric = str(draw_of(figure, panel, figure.series[-1]).metric)
        panels.append(Lines(panel.label, metric.startswith(IN_PER_CENT), lines, missing))
    return panels


def color_of(index: int) -> str:
    """Of a series; the first is not grey, which is SFT's elsewhere."""
    return SERIES[1 + index % (len(SERIES) - 1)]


def page_panels(panels: list[Lines]) -> list[Panel]:
    """For the page, whose legend is its own; a panel without a line is left out."""
    drawn = []
    for panel in panels:
        if panel.lines:
            with mpl.rc_context(STYLE):
                figure, axes = canvas()
                _draw(axes, panel)
                drawn.append(Panel(panel.title, to_svg(figure, PAGE), _alt(panel)))
    return drawn


def picture(panels: list[Lines]) -> str:
    """All panels side by side on white, with a legend, for Markdown; '' without a line."""
    filled = [panel for panel in panels if panel.lines]
    if not filled:
        return ""
    with mpl.rc_context({**STYLE, "figure.facecolor": "white", "axes.titlesize": 10}):
        figure = Canvas(figsize=(3.8 * len(filled), 2.9))
        for index, panel in enumerate(filled):
            axes = figure.add_subplot(1, len(filled), index + 1)
            axes.set_title(panel.title, loc="left", color=INK)
            _draw(axes, panel)
            axes.legend(fontsize=8, loc="best")
        return to_svg(figure, PRINT, scalable=False)


def runs_of(figure: Figure, twin: str) -> list[tuple[str, str]]:
    """(experiment, method) of the runs whose curves the figure draws."""
    draws = [draw_of(figure, panel, series) for panel in figure.panels for series in figure.series]
    return list(dict.fromkeys((_experiment(draw, twin), draw.method or "sft") for draw in draws))


def _draw(axes: Axes, panel: Lines) -> None:
    """The mean over training seeds bold, each seed thin and pale; a single point is a level across the panel."""
    scale = 100 if panel.percent else 1
    for line in panel.lines:
        x, y = mean_curve(line.seeds)
        if len(x) == 1:
            axes.axhline(scale * y[0], color=line.color, linewidth=1.6, linestyle="--", label=line.label)
            if line.spread:
                half = mean_curve(line.spread)[1][0]
                axes.axhspan(scale * (y[0] - half), scale * (y[0] + half), color=line.color, alpha=0.12, linewidth=0)
            continue
        for points in line.seeds if len(line.seeds) > 1 else []:
            axes.plot(*_scaled(points, scale), color=line.color, linewidth=0.7, alpha=0.4)
        axes.plot(x, scale * y, color=line.color, linewidth=1.8, label=line.label)
    if panel.percent:
        axes.set_ylim(0, 100)
    elif axes.dataLim.ymin >= 0:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("iteration")


def _scaled(points: Points, scale: float) -> tuple[np.ndarray, np.ndarray]:
    x, y = mean_curve([points], THIN)
    return x, scale * y


def _alt(panel: Lines) -> str:
    scale = 100 if panel.percent else 1
    said = []
    for line in panel.lines:
        x, y = mean_curve(line.seeds)
        first, last = (f"{scale * value:.3g}" for value in (y[0], y[-1]))
        said.append(f"{line.label} {first}" if len(x) == 1 else f"{line.label} from {first} to {last}")
    return f"Line chart of {panel.title}: {'; '.join(said)}."


def _read(evidence: Evidence, draw: Draw, metric: str) -> list[Points]:
    found = curve(evidence, _experiment(draw, evidence.twin), draw.method or "", metric, draw.stage or "rl")
    return list(found.values())


def _why(evidence: Evidence, draw: Draw) -> str:
    experiment, method = _experiment(draw, evidence.twin), draw.method or "sft"
    frame = evidence.episodes
    if ((frame["experiment"] == experiment) & (frame["method"] == method)).any():
        return f"{experiment} {method} recorded no {draw.metric}"
    return absent(evidence, experiment, method)


def _experiment(draw: Draw, twin: str) -> str:
    return for_twin(draw.experiment or "", twin) + (draw.suffix or "")
