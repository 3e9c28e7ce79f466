"""Figures as SVG text, the same bytes for the same numbers.

Colours are drawn as markers and replaced at the end: by CSS variables for the page, so that dark mode recolours the
lines, or by fixed colours for the picture that README embeds.
"""

import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from pirl_core.facts import Score
from pirl_core.report.inputs import Curve
from pirl_core.report.tables import Row, amount, is_return, method_label, percent, shown, split_title

TEXT, GRID, INK = "#0a0b01", "#0a0b02", "#0a0b03"
SERIES = ("#0a0b10", "#0a0b11", "#0a0b12", "#0a0b13", "#0a0b14")
PAGE = {
    TEXT: "var(--muted)",
    GRID: "var(--line)",
    INK: "var(--ink)",
    **{c: f"var(--s{i})" for i, c in enumerate(SERIES)},
}
PRINT = {TEXT: "#4b5563", GRID: "#e2e5ea", INK: "#1b1f24"} | dict(
    zip(SERIES, ("#6b7280", "#0b63c5", "#c2500a", "#0a7d55", "#8546b5"), strict=True)
)
DIAGNOSTICS = {
    "losses/approx_kl": "Approximate KL",
    "losses/clipfrac": "Clip fraction",
    "losses/explained_variance": "Explained variance",
}
TRAINING: dict[Score, str] = {"success": "charts/success", "return": "charts/episodic_return"}
"""The metric of the episodes that RL learns from."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "pirl",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "text.color": TEXT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}
Curves = dict[str, list[Curve]]  # method -> one curve per training seed


class Panel(NamedTuple):
    """One small figure of the page."""

    title: str
    svg: str
    alt: str


def color_index(methods: Sequence[str], method: str) -> int:
    """SFT is always grey; the others take the colours in the order of `policies`."""
    others = [name for name in methods if name != "sft"]
    return 0 if method == "sft" else 1 + others.index(method) % (len(SERIES) - 1)


def learning_panels(methods: Sequence[str], sft: list[Curve], rl: Curves) -> list[Panel]:
    """Success, SFT loss and PPO's diagnostics over training; a panel without any point is left out."""
    panels = []
    score = score_of(rl)
    if any(f"validation/{score}" in curve or TRAINING[score] in curve for curves in rl.values() for curve in curves):
        with mpl.rc_context(STYLE):
            figure, axes = canvas()
            _scores(axes, methods, rl)
            title = "Return over RL iterations" if score == "return" else "Success over RL iterations (%)"
            panels.append(Panel(title, to_svg(figure, PAGE), _scores_alt(rl)))
    if points := [curve["losses/flow_matching"] for curve in sft if "losses/flow_matching" in curve]:
        panels.append(_line_panel("SFT: flow-matching loss", {"sft": points}, methods, "step", log=True))
    for key, title in DIAGNOSTICS.items():
        series = {m: [curve[key] for curve in curves if key in curve] for m, curves in rl.items()}
        if any(series.values()):
            panels.append(_line_panel(title, series, methods, "iteration", log=False))
    return panels


def split_panel(title: str, methods: Sequence[str], rows: list[Row]) -> Panel:
    """Bars with the intervals as whiskers, one group per split, one bar per method."""
    splits = list(dict.fromkeys(row["split"] for row in rows))
    with mpl.rc_context(STYLE):
        figure, axes = canvas(width=max(3.6, 1.1 * len(splits) + 1.2), height=2.5)
        width = 0.8 / len(methods)
        for row in rows:
            x = splits.index(row["split"]) + (methods.index(row["method"]) - (len(methods) - 1) / 2) * width
            color = SERIES[color_index(methods, row["method"])]
            scale = 1 if is_return(row) else 100
            rate, low, high = (scale * row[key] for key in ("rate", "ci_low", "ci_high"))
            axes.bar(x, rate, width * 0.86, color=color, alpha=0.8)
            axes.vlines(x, low, high, color=INK, linewidth=1.3)
            axes.hlines([low, high], x - width * 0.14, x + width * 0.14, color=INK, linewidth=1.3)
        axes.set_xticks(range(len(splits)), [split_title(split) for split in splits])
        of_returns = any(map(is_return, rows))
        if not of_returns:
            axes.set_ylim(0, 100)
        figure_svg = to_svg(figure, PAGE)
    unit = "" if of_returns else "% "
    said = "; ".join(
        f"{split_title(row['split'])} {method_label(row['method'])} {shown(row['rate'], row)} {unit}"
        f"({shown(row['ci_low'], row)} to {shown(row['ci_high'], row)})"
        for row in rows
    )
    what = "return" if of_returns else "success"
    return Panel(title, figure_svg, f"Bar chart of {what} by evaluation set, {title}: {said}.")


def learning_picture(methods: Sequence[str], curves: dict[str, Curves]) -> str:
    """The picture for README: success or return over RL iterations, one panel per experiment, on white."""
    with mpl.rc_context({**STYLE, "figure.facecolor": "white", "axes.titlesize": 10}):
        figure = Figure(figsize=(4.2 * max(1, len(curves)), 2.9))
        for index, (experiment, rl) in enumerate(curves.items()):
            axes = figure.add_subplot(1, len(curves), index + 1)
            what = "return" if score_of(rl) == "return" else "success (%)"
            axes.set_title(f"{experiment}: {what}", loc="left", color=INK)
            _scores(axes, methods, rl)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8, loc="upper left", ncols=len(rl))
        return to_svg(figure, PRINT, scalable=False)


def canvas(width: float = 3.6, height: float = 2.3) -> tuple[Figure, Axes]:
    """An empty figure of one panel, in inches, without a ground of its own."""
    figure = Figure(figsize=(width, height))
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    return figure, axes


def score_of(rl: Curves) -> Score:
    """What the curves of an experiment tell."""
    is_return = any("validation/return" in curve for curves in rl.values() for curve in curves)
    return "return" if is_return else "success"


def _scores(axes: Axes, methods: Sequence[str], rl: Curves) -> None:
    """Training success or return thin and pale, of validation bold with dots; the mean over training seeds."""
    score = score_of(rl)
    scale = 1 if score == "return" else 100
    for method, curves in rl.items():
        color = SERIES[color_index(methods, method)]
        bold = {"linewidth": 2.0, "marker": "o", "markersize": 3.5, "label": method_label(method)}
        for key, style in (
            (TRAINING[score], {"linewidth": 1.0, "alpha": 0.45}),
            (f"validation/{score}", bold),
        ):
            x, y = mean_curve([curve[key] for curve in curves if key in curve])
            if len(x):
                axes.plot(x, scale * y, color=color, **style)
    if score == "success":
        axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("iteration")


def _scores_alt(rl: Curves) -> str:
    score, parts = score_of(rl), []
    show = amount if score == "return" else lambda value: f"{percent(value)} %"
    for method, curves in rl.items():
        x, y = mean_curve([curve[f"validation/{score}"] for curve in curves if f"validation/{score}" in curve])
        if len(x):
            parts.append(f"{method_label(method)} from {show(y[0])} to {show(y[-1])} at iteration {x[-1]:g}")
    return f"Line chart of {score} over RL iterations. Validation: " + ("; ".join(parts) or "not recorded") + "."


def _line_panel(
    title: str, series: dict[str, list[list[tuple[float, float]]]], methods: Sequence[str], xlabel: str, log: bool
) -> Panel:
    parts = []
    with mpl.rc_context(STYLE):
        figure, axes = canvas()
        for method, curves in series.items():
            x, y = mean_curve(curves)
            if len(x):
                axes.plot(x, y, color=SERIES[color_index(methods, method)], linewidth=1.5)
                parts.append(f"{method_label(method)} from {y[0]:.3g} to {y[-1]:.3g}")
        if log and min(point[1] for curves in series.values() for curve in curves for point in curve) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_locator(NullLocator())
        elif title != DIAGNOSTICS["losses/explained_variance"]:
            axes.set_ylim(bottom=0)
        if axes.get_yscale() == "linear":
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel(xlabel)
        return Panel(title, to_svg(figure, PAGE), f"Line chart of {title}: {'; '.join(parts)}.")


def mean_curve(curves: list[list[tuple[float, float]]], most: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Mean over training seeds at each step, in blocks of steps so that no line has more than `most` points."""
    if not curves:
        return np.empty(0), np.empty(0)
    points = np.array([point for curve in curves for point in curve], float)
    x, index = np.unique(points[:, 0], return_inverse=True)
    y = np.bincount(index, points[:, 1]) / np.bincount(index)
    if len(x) <= most:
        return x, y
    blocks = np.array_split(np.arange(len(x)), most)
    return np.array([x[b].mean() for b in blocks]), np.array([y[b].mean() for b in blocks])


def to_svg(figure: Figure, colors: dict[str, str], scalable: bool = True) -> str:
    """The figure without dates and metadata. scalable: for inlining in HTML (no namespaces, width by CSS)."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for marker, color in colors.items():
        text = text.replace(marker, color)
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"font: ([^;\"]*?)(['\"]?)DejaVu Sans\2[^;\"]*", r"font: \1system-ui, sans-serif", text)
    text = "\n".join(line.rstrip() for line in text.splitlines()) + "\n"
    if not scalable:
        return text
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    return re.sub(r'<svg[^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 aria-hidden="true" focusable="false">', text, count=1)
