"""Reliability diagram: accuracy by confidence."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from pipeline.report.figures.style import BLUE, INK, ORANGE, as_percent, legend_above, new_figure


def reliability_diagram(
    confidence: ArrayLike, accuracy: ArrayLike, counts: ArrayLike, *, uncalibrated: ArrayLike
) -> Figure:
    """Draw the accuracy of each confidence bin (B,), and below the share of predictions in it.

    `uncalibrated` (2, B) are mean confidence and accuracy before calibration; an empty bin
    is NaN. On the diagonal, 80 % of the predictions with a confidence of 80 % are correct
    (Niculescu-Mizil and Caruana, 2005).
    """
    figure, (upper, lower) = new_figure(
        "reliability", width=4.2, height=4.4, rows=2, heights=(3.4, 1.0)
    )
    share = np.asarray(counts, np.float64) / max(np.sum(counts), 1)
    edges = np.linspace(0, 1, len(share) + 1)
    upper.plot([0, 1], [0, 1], color=INK, alpha=0.45, linewidth=0.9, linestyle=(0, (4, 3)))
    before_confidence, before_accuracy = np.asarray(uncalibrated, np.float64)
    upper.plot(
        *_present(before_confidence, before_accuracy),
        "s-", color=ORANGE, fillstyle="none", linewidth=1, markersize=4.5,
        label="before calibration",
    )  # fmt: skip
    upper.plot(
        *_present(np.asarray(confidence, np.float64), np.asarray(accuracy, np.float64)),
        "o-", color=BLUE, label="after", markersize=5,
    )  # fmt: skip
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    legend_above(upper, 2)
    lower.bar(edges[:-1], share, width=np.diff(edges), align="edge", color=BLUE, alpha=0.75)
    lower.set(xlabel="confidence", ylabel="predictions")
    for axis in (upper.xaxis, upper.yaxis, lower.yaxis):
        axis.set_major_formatter(as_percent())
    figure.align_ylabels()
    return figure


def _present(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    present = ~np.isnan(x)
    return x[present], y[present]
