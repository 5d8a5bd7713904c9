"""Confidence compared with accuracy, in 15 bins of equal width by confidence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

BINS = 15

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliability:
    """Predictions in bins by their confidence: (15,) each."""

    confidence: Floats
    """Mean confidence of each bin; NaN if the bin is empty."""
    accuracy: Floats
    """Accuracy of each bin; NaN if the bin is empty."""
    counts: Integers

    @property
    def calibration_error(self) -> float:
        """Mean gap between confidence and accuracy over all predictions (ECE), 0 to 1."""
        gaps = np.abs(self.confidence - self.accuracy) * self.counts
        return float(np.nansum(gaps) / self.counts.sum())


def reliability(probabilities: Tensor, labels: Tensor) -> Reliability:
    """Sort predictions into bins: (N, K), (N,)."""
    confidence, predicted = probabilities.double().max(1)
    # A confidence of 1 belongs to the last bin.
    bins = np.minimum((confidence.numpy() * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    return Reliability(
        confidence=_means(confidence.numpy(), bins, counts),
        accuracy=_means((predicted == labels).double().numpy(), bins, counts),
        counts=counts,
    )


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Mean gap between confidence and accuracy over 15 bins: (N, K), (N,) -> [0, 1]."""
    return reliability(probabilities, labels).calibration_error


def _means(values: Floats, bins: Integers, counts: Integers) -> Floats:
    sums = np.bincount(bins, weights=values, minlength=BINS)
    means: Floats = np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)
    return means
