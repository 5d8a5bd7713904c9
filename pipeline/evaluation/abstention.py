"""When to say "I don't know": a threshold of confidence that keeps errors rare."""

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import Abstention

SHARE_OF_ERRORS = 0.2
"""Of the error rate without a threshold, what is left with one."""

Floats = NDArray[np.floating]


def choose_threshold(confidence: Floats, right: NDArray[np.bool_]) -> tuple[float, float]:
    """The least confidence, (N,), to rely on so that errors are a fifth as frequent as over all.

    As many validation answers as possible are kept (El-Yaniv and Wiener, 2010, selective
    classification by the softmax response). A network without an error keeps them all.

    Returns:
        The threshold, 0 to 1, and the highest share of errors that it was chosen for.

    """
    limit = SHARE_OF_ERRORS * float((~right).mean())
    order = np.argsort(-confidence, kind="stable")
    errors = np.cumsum(~right[order]) / np.arange(1, len(right) + 1)
    # Equal confidences go together: only the last of them says what keeping them comes to.
    ranked = confidence[order]
    last = np.append(ranked[1:] != ranked[:-1], True)
    kept = np.flatnonzero((errors <= limit) & last)
    if not len(kept):
        return 1.0, limit
    everything = kept[-1] == len(right) - 1
    return (0.0 if everything else float(ranked[kept[-1]])), limit


def measure_abstention(
    threshold: float, limit: float, confidence: Floats, right: NDArray[np.bool_]
) -> Abstention:
    """What a threshold comes to on images that it was not chosen by."""
    kept = confidence >= threshold
    return Abstention(
        threshold=threshold,
        error_limit=limit,
        images=len(right),
        coverage=float(kept.mean()),
        accuracy=float(right[kept].mean()) if kept.any() else 0.0,
    )
