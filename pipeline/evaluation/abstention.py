"""Abstention: a confidence threshold that keeps errors rare."""

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.measurements import Abstention

SHARE_OF_ERRORS = 0.2
"""Error rate that the threshold aims at, as a share of the error rate without a threshold."""

Floats = NDArray[np.floating]


def choose_threshold(confidence: Floats, correct: NDArray[np.bool_]) -> tuple[float, float]:
    """Choose the lowest threshold that makes errors a fifth as frequent as without one.

    It keeps as many validation predictions as possible (selective classification by the softmax
    response, El-Yaniv and Wiener, 2010). Without any error the threshold is 0.

    Args:
        confidence: probability of each prediction, (N,).
        correct: whether each prediction is the label, (N,).

    Returns:
        The threshold, 0 to 1, and the highest share of errors that it was chosen for.

    """
    limit = SHARE_OF_ERRORS * float((~correct).mean())
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~correct[order]) / np.arange(1, len(correct) + 1)
    # Equal confidences are kept together, so only the last of each group is a candidate.
    ranked = confidence[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    kept = np.flatnonzero((errors <= limit) & last)
    if not len(kept):
        return 1.0, limit
    keeps_all = kept[-1] == len(correct) - 1
    return (0.0 if keeps_all else float(ranked[kept[-1]])), limit


def measure_abstention(
    threshold: float, limit: float, confidence: Floats, correct: NDArray[np.bool_]
) -> Abstention:
    """Measure the coverage and accuracy of a threshold on images with these predictions."""
    kept = confidence >= threshold
    return Abstention(
        threshold=threshold,
        error_limit=limit,
        images=len(correct),
        coverage=float(kept.mean()),
        accuracy=float(correct[kept].mean()) if kept.any() else 0.0,
    )
