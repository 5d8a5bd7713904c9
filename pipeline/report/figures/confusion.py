"""Confusion matrix."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pipeline.report.figures.style import BLUE, INK, ORANGE, new_figure

# Opacities at which the numbers stay legible, on a light page and on a dark one.
_FAINTEST, _STRONGEST = 0.12, 0.7
_MOST_NUMBERS, _MOST_NAMES, _LONGEST_NAME = 16, 40, 20


def confusion_matrix(counts_kk: ArrayLike, classes: Sequence[str]) -> Figure:
    """Draw counts (K, K) of images by true class (rows) and predicted class (columns).

    Opacity is the share of the row. For errors it is the square root, so that rare errors show.
    """
    counts = np.asarray(counts_kk, np.int64)
    size = len(counts)
    side = min(max(1.2 + 0.3 * size, 2.6), 9.0)
    figure, (axes,) = new_figure("confusion matrix", width=side, height=side)
    axes.imshow(_colours(counts), interpolation="none", aspect="equal")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted", ylabel="true")
    axes.xaxis.set_label_position("top")
    axes.xaxis.tick_top()
    if size <= _MOST_NAMES:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(size), names, rotation=0 if max(map(len, names)) <= 3 else 90)
        axes.set_yticks(range(size), names)
    if size <= _MOST_NUMBERS:
        _write_numbers(axes, counts)
    return figure


def _colours(counts_kk: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return red, green, blue and opacity of each cell: (K, K, 4)."""
    shares = counts_kk / np.maximum(counts_kk.sum(1, keepdims=True), 1)
    colours = np.empty((*counts_kk.shape, 4))
    colours[..., :3] = to_rgb(ORANGE)
    opacity = _FAINTEST + (_STRONGEST - _FAINTEST) * np.sqrt(shares)
    colours[..., 3] = np.where(counts_kk > 0, opacity, 0)
    correct = np.arange(len(counts_kk))
    colours[correct, correct, :3] = to_rgb(BLUE)
    colours[correct, correct, 3] = np.diagonal(shares) * _STRONGEST
    return colours


def _write_numbers(axes: Axes, counts_kk: NDArray[np.int64]) -> None:
    for row, column in zip(*np.nonzero(counts_kk), strict=True):
        axes.text(
            column,
            row,
            str(counts_kk[row, column]),
            ha="center",
            va="center",
            fontsize=8 if counts_kk.max() < 1000 else 7,
            color=INK,
        )


def _short(name: str) -> str:
    """Shorten a class name, and escape dollar signs, which matplotlib reads as mathematics."""
    fitting = name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"
    return fitting.replace("$", r"\$")
