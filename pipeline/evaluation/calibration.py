"""Temperature scaling: calibrated confidence (Guo et al., 2017, arXiv 1706.04599)."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_calibration_error

from limelight.artifact.manifest import Calibration

BINS = 15
LOG_TEMPERATURE_BOUNDS = (math.log(0.05), math.log(20.0))


def expected_calibration_error(probabilities: Tensor, labels: Tensor) -> float:
    """Mean gap between confidence and accuracy over 15 bins: (N, K), (N,) -> [0, 1]."""
    error = multiclass_calibration_error(
        probabilities, labels, num_classes=probabilities.shape[1], n_bins=BINS, norm="l1"
    )
    return float(error)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature with the lowest log loss: (N, K), (N,) -> T > 0.

    The targets have Platt's correction (1999): (N + 1) / (N + K) instead of 1. Without it, the log
    loss of a network that makes no error on N images would be lowest at a temperature of 0.
    """
    logits = logits.double()
    images, classes = logits.shape
    smoothing = classes / (images + classes)

    def log_loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return float(nn.functional.cross_entropy(scaled, labels, label_smoothing=smoothing))

    found = minimize_scalar(log_loss, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded")
    return math.exp(float(found.x))


def confidence_of(
    logits: Tensor, labels: Tensor, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each prediction's probability and correctness: (N, K), (N,) -> (N,), (N,)."""
    confidence, predicted = (logits.double() / temperature).softmax(1).max(1)
    return confidence.numpy(), (predicted == labels).numpy()


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Fit the temperature to a validation split's logits (N, K), and measure its effect."""
    temperature = fit_temperature(logits, labels)
    return Calibration(
        method="temperature",
        temperature=temperature,
        images=len(labels),
        ece_before=expected_calibration_error(logits.softmax(1), labels),
        ece_after=expected_calibration_error((logits / temperature).softmax(1), labels),
    )
