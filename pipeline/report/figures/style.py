"""One look for all figures: three colours, thin lines, and ink that follows the page's."""

from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#1c2430"
"""Text, ticks and frames; an SVG has the page's own colour in its place."""
# Told apart on paper, on a dark page and by the colour-blind.
BLUE, ORANGE, GREEN = "#2f7ebc", "#e0702a", "#3a9a6a"

# matplotlib names its settings in a type of its own.
_RC: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.facecolor": "none",
    "axes.labelcolor": INK,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "lines.linewidth": 1.6,
    "text.color": INK,
}


def new_figure(
    name: str,
    *,
    width: float = 4.2,
    height: float = 2.9,
    rows: int = 1,
    heights: tuple[float, ...] = (1.0,),
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` by `height` inches, and its panels from the top, which share their x.

    `name` tells figures on one page apart.
    """
    with rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained", label=name)
        FigureCanvasAgg(figure)
        panels = figure.subplots(
            rows, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        axes = list(panels[:, 0])
        for each in axes:
            # Ticks are made when the figure is drawn, with what was said here.
            each.tick_params(which="both", length=2.5, width=0.6, colors=INK, labelsize=9)
            each.grid(visible=True, color=INK, alpha=0.14, linewidth=0.6)
    return figure, axes


def as_percent() -> PercentFormatter:
    """Ticks of shares, in per cent, with as many digits as tell them apart."""
    return PercentFormatter(xmax=1)


def legend_above(axes: Axes, columns: int) -> None:
    """Name the lines over the panel, where they cross nothing."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=columns,
        borderaxespad=0.2,
        borderpad=0,
        handlelength=1.6,
        columnspacing=1.4,
        labelcolor=INK,
        frameon=False,
        fontsize=9,
    )
