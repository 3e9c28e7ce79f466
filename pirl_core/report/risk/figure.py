"""Regret over episodes: worlds down, risk parameters γ across."""

import re
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from pirl_core.report.figures import INK, PAGE, PRINT, SERIES, STYLE, Panel, color_index, to_svg
from pirl_core.report.risk.rows import Learner, spread
from pirl_core.report.tables import method_label, scientific, signed

POINTS = 24
"""Drawn of a curve, at equal distances of ln k."""
TITLE = "Regret over episodes, both logarithmic"


def regret_picture(methods: Sequence[str], learners: Sequence[Learner]) -> str:
    """The picture beside report.md, on white."""
    with mpl.rc_context({**STYLE, "figure.facecolor": "white"}):
        return _short(to_svg(_figure(methods, learners), PRINT, scalable=False))


def regret_panel(methods: Sequence[str], learners: Sequence[Learner]) -> Panel:
    """The same for the page."""
    with mpl.rc_context(STYLE):
        figure = _figure(methods, learners)
        figure.patch.set_alpha(0)
        said = "; ".join(
            f"{each.experiment} {method_label(each.method)} at γ {signed(each.gamma)}: {each.regret[:, -1].mean():.1f}"
            for each in learners
        )
        return Panel(TITLE, _short(to_svg(figure, PAGE)), f"Line charts of regret over episodes. At the end {said}.")


def _figure(methods: Sequence[str], learners: Sequence[Learner]) -> Figure:
    experiments = list(dict.fromkeys(each.experiment for each in learners))
    gammas = list(dict.fromkeys(each.gamma for each in learners))
    figure = Figure(figsize=(1.2 + 1.7 * len(gammas), 0.6 + 1.9 * len(experiments)))
    grid = figure.subplots(len(experiments), len(gammas), sharex=True, sharey="row", squeeze=False)
    for each in learners:
        row, column = experiments.index(each.experiment), gammas.index(each.gamma)
        axes: Axes = grid[row, column]
        _draw(axes, each, SERIES[color_index(methods, each.method)])
        axes.set_title(f"γ = {signed(each.gamma)}\nbound {scientific(each.bound)}", loc="left", fontsize=8, color=INK)
        if column == 0:
            axes.set_ylabel(f"{each.experiment}: regret")
        if row == len(experiments) - 1:
            axes.set_xlabel("episode")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(methods), fontsize=8)
    return figure


def _draw(axes: Axes, learner: Learner, color: str) -> None:
    """Mean over seeds, and the band of its interval."""
    wish = np.geomspace(1, len(learner.episode), POINTS).round().astype(int) - 1
    at = np.unique(wish)
    mean, low, high = (one[at] for one in spread(learner))
    axes.plot(learner.episode[at], mean, color=color, linewidth=1.5, label=method_label(learner.method))
    axes.fill_between(learner.episode[at], low, high, color=color, alpha=0.2, linewidth=0)
    axes.set_xscale("log")
    axes.set_yscale("symlog", linthresh=1)
    axes.xaxis.set_minor_locator(NullLocator())


def _short(svg: str) -> str:
    """Hundredths of a point are enough, and half the bytes."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", svg)
