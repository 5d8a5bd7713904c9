"""Curves over training: losses, accuracy, schedule, learning rate range test."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

from pipeline.report.figures.style import (
    BLUE,
    GREEN,
    INK,
    ORANGE,
    as_percent,
    legend_above,
    new_figure,
)

# More points than the plot has pixels would only make the file larger.
_MOST_POINTS = 600


def losses(epochs: ArrayLike, training: ArrayLike, validation: ArrayLike) -> Figure:
    """Draw the training loss (S,) at times in `epochs` (S,), and the validation loss (E,)."""
    figure, (axes,) = new_figure("losses")
    x, y = np.asarray(epochs, np.float64), np.asarray(training, np.float64)
    chosen = _thinned(len(x))
    axes.plot(x[chosen], y[chosen], color=BLUE, label="training")
    _plot_epochs(axes, validation, "validation")
    axes.set(ylabel="log loss")
    axes.set_ylim(bottom=0)
    legend_above(axes, 2)
    return figure


def accuracies(validation: ArrayLike, best: int) -> Figure:
    """Draw the validation accuracy of each epoch (E,); `best` is the kept epoch, from 1."""
    figure, (axes,) = new_figure("accuracies")
    values = np.asarray(validation, np.float64)
    _plot_epochs(axes, values, "validation")
    kept = values[best - 1]
    label = f"kept: epoch {best}, {kept:.2%}"
    axes.plot(best, kept, "o", color=INK, fillstyle="none", markersize=9, label=label)
    legend_above(axes, 2)
    axes.set(ylabel="accuracy")
    axes.yaxis.set_major_formatter(as_percent())
    return figure


def schedule(epochs: ArrayLike, rates: ArrayLike, momenta: ArrayLike) -> Figure:
    """Draw learning rate and momentum, (S,) each, at times in `epochs`."""
    figure, (upper, lower) = new_figure("schedule", rows=2, heights=(3.0, 2.0))
    x = np.asarray(epochs, np.float64)
    chosen = _thinned(len(x))
    upper.plot(x[chosen], np.asarray(rates, np.float64)[chosen], color=BLUE)
    upper.set_ylabel("learning rate")
    upper.set_ylim(bottom=0)
    lower.plot(x[chosen], np.asarray(momenta, np.float64)[chosen], color=GREEN)
    lower.set(ylabel="momentum", xlabel="epoch")
    figure.align_ylabels()
    return figure


def learning_rates(rates: ArrayLike, losses: ArrayLike, suggestions: Mapping[str, float]) -> Figure:
    """Draw a range test (Smith, 2015): losses (S,) over rates (S,), and suggested rates."""
    figure, (axes,) = new_figure("learning rates", width=6.0, height=3.4)
    x, y = np.asarray(rates, np.float64), np.asarray(losses, np.float64)
    axes.semilogx(x, y, color=BLUE)
    for (name, rate), colour in zip(suggestions.items(), (ORANGE, GREEN, INK), strict=False):
        height = np.interp(np.log(rate), np.log(x), y)
        axes.plot(rate, height, "o", color=colour, label=f"{name}: {rate:.2g}", markersize=7)
    axes.set(xlabel="learning rate", ylabel="loss, smoothed")
    if suggestions:
        legend_above(axes, len(suggestions))
    return figure


def smoothed(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the moving mean over `window` values, (S,); at the ends over fewer values."""
    padded = np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])
    count = len(padded) - 1
    first = np.clip(np.arange(count) - (window - 1) // 2, 0, count)
    last = np.clip(np.arange(count) + window // 2 + 1, 0, count)
    means: NDArray[np.float64] = (padded[last] - padded[first]) / (last - first)
    return means


def _plot_epochs(axes: Axes, values: ArrayLike, label: str) -> None:
    heights = np.asarray(values, np.float64)
    axes.plot(np.arange(len(heights)) + 1, heights, "o-", color=ORANGE, label=label, markersize=3.5)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _thinned(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(np.int64))
