"""Style of all figures: three colours, thin lines, text in the page's colour."""

from collections.abc import Mapping
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

INK = "#1c2430"
"""Colour of text, ticks and frames; `to_svg` replaces it by the page's text colour."""
# Distinguishable on a light page, on a dark page and with colour blindness.
BLUE, ORANGE, GREEN = "#2f7ebc", "#e0702a", "#3a9a6a"

# matplotlib has its own type for the names of settings.
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
    margins: Mapping[str, float] | None = None,
) -> tuple[Figure, list[Axes]]:
    """Make a figure of `width` by `height` inches, with panels that share the x axis.

    `margins` place the panels, as those of matplotlib's `GridSpec`. Without them they are measured,
    which takes as long as drawing the figure.

    Returns:
        The figure, whose ids depend on `name` so that they differ on one page, and its panels from
        top to bottom.

    """
    with rc_context(_RC):
        figure = Figure(figsize=(width, height), label=name)
        figure.set_layout_engine(None if margins else "constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(
            rows,
            1,
            sharex=True,
            squeeze=False,
            gridspec_kw={"height_ratios": heights, **(margins or {})},
        )
        axes = list(panels[:, 0])
        for each in axes:
            # Ticks are created when the figure is drawn, outside this `rc_context`.
            each.tick_params(which="both", length=2.5, width=0.6, colors=INK, labelsize=9)
            each.grid(visible=True, color=INK, alpha=0.14, linewidth=0.6)
    return figure, axes


def as_percent() -> PercentFormatter:
    """Return a formatter of shares as per cent, with as many digits as needed."""
    return PercentFormatter(xmax=1)


def legend_above(axes: Axes, columns: int) -> None:
    """Place the legend above the panel, where it covers no line."""
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
