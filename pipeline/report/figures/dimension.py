"""Colorful dimension: a layer's activations during training."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pipeline.report.figures.style import BLUE, GREEN, ORANGE, as_percent, legend_above, new_figure

# Those that a layout of these labels gives. A page has a figure for each layer of a network.
_MARGINS = {"left": 0.204, "right": 0.988, "top": 0.936, "bottom": 0.125, "hspace": 0.4}


def colorful_dimension(
    layer: str,
    steps: ArrayLike,
    histograms: ArrayLike,
    span: tuple[float, float],
    *,
    means: ArrayLike,
    deviations: ArrayLike,
    near_zero: ArrayLike,
) -> Figure:
    """Draw a layer's activations during training (Stefano Giomo; fastbook, chapter 13, 2020).

    The upper panel shows `histograms` (T, B) of B bins over `span`, without the empty bins at both
    ends; lighter bins have more activations (log of 1 + count). The lower panels show mean,
    standard deviation and the share near zero: (T,) each, at `steps` (T,).
    """
    at = np.asarray(steps, np.float64)
    figure, (colourful, moments, share) = new_figure(
        f"activations of {layer}",
        width=3.3,
        height=3.5,
        rows=3,
        heights=(3.0, 1.7, 1.3),
        margins=_MARGINS,
    )
    _draw_histograms(colourful, at, np.asarray(histograms, np.float64), span)
    colourful.set_title(layer, fontsize=9, loc="left", fontweight="bold")
    moments.plot(at, np.asarray(means, np.float64), color=BLUE, label="mean", linewidth=1.2)
    moments.plot(
        at, np.asarray(deviations, np.float64), color=ORANGE, label="deviation", linewidth=1.2
    )
    moments.set_ylim(bottom=min(0.0, moments.get_ylim()[0]))
    legend_above(moments, 2)
    share.plot(at, np.asarray(near_zero, np.float64), color=GREEN, linewidth=1.2)
    share.set_ylim(0, 1)
    share.yaxis.set_major_formatter(as_percent())
    share.set(xlabel="step", ylabel="near 0")
    return figure


def _draw_histograms(
    axes: Axes, at: NDArray[np.float64], counts_tb: NDArray[np.float64], span: tuple[float, float]
) -> None:
    edges = np.linspace(*span, counts_tb.shape[1] + 1)
    used = np.flatnonzero(counts_tb.any(0))
    low, high = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, len(edges) - 1)
    levels = np.log1p(counts_tb.T[low:high])
    colours = colormaps["viridis"](levels / max(levels.max(), 1e-12))
    # Empty bins are transparent, so that a dead layer is not a dark block.
    colours[levels == 0, 3] = 0
    first, last = (at[0], at[-1]) if len(at) > 1 else (at[0] - 0.5, at[0] + 0.5)
    axes.imshow(
        colours,
        aspect="auto",
        origin="lower",
        interpolation="none",
        extent=(first, last, edges[low], edges[high]),
    )
    axes.grid(visible=False)
    axes.set_ylabel("activation")
