"""Temperature scaling: calibrated confidence (Guo et al., 2017, arXiv 1706.04599).

The fit must not make confidence worse, however few the validation images and however many the
classes. So the temperature stays 1 unless the images are evidence against it, and unless it also
helps on images that it was not fitted to (cross-fitting).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from sklearn.model_selection import KFold
from torch import Tensor, nn

from limelight.artifact.manifest import Calibration
from pipeline.errors import GateError
from pipeline.evaluation.reliability import expected_calibration_error

LOG_TEMPERATURE_BOUNDS = (math.log(0.05), math.log(20.0))
FOLDS = 5
# Standard deviation of the prior of log T around 0: a temperature of 1/2 or 2 is within one and a
# half of it, and a few dozen images outweigh it.
_PRIOR = 0.5
# Drop of the log posterior at the ends of a 95 % interval (half of chi-squared, one degree).
_DROP = 1.92


@dataclass(frozen=True, slots=True)
class Temperature:
    """Fitted temperature, and the 95 % interval of what the images allow."""

    value: float
    low: float
    high: float


def fit_temperature(logits: Tensor, labels: Tensor) -> Temperature:
    """Find the temperature with the lowest log loss: (N, K), (N,) -> T > 0.

    It has a weak prior around 1. It is 1 if the interval contains 1, since the images are then no
    evidence against the network's own confidence. It sharpens at most until the mean confidence is
    (right + 1) / (N + 2), Laplace's rule of succession: N images without an error are no proof
    that the network makes none.
    """
    logits = logits.double()

    def log_posterior(log_temperature: float) -> float:
        """Compute the negative log posterior, without its constant."""
        scaled = logits / math.exp(log_temperature)
        loss = nn.functional.cross_entropy(scaled, labels, reduction="sum")
        return float(loss) + (log_temperature / _PRIOR) ** 2 / 2

    lowest, highest = LOG_TEMPERATURE_BOUNDS
    found = minimize_scalar(log_posterior, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded")
    best, least = float(found.x), float(found.fun)

    def beyond(log_temperature: float) -> float:
        return log_posterior(log_temperature) - least - _DROP

    low = float(brentq(beyond, lowest, best)) if beyond(lowest) > 0 else lowest
    high = float(brentq(beyond, best, highest)) if beyond(highest) > 0 else highest
    if low <= 0 <= high:
        best = 0.0
    elif best < 0:
        best = max(best, min(0.0, _sharpest(logits, labels)))
        high = max(high, best)
    return Temperature(math.exp(best), math.exp(low), math.exp(high))


def _sharpest(logits: Tensor, labels: Tensor) -> float:
    """Find the log temperature at which the mean confidence is (right + 1) / (N + 2)."""
    right = int((logits.argmax(1) == labels).sum())
    most = (right + 1) / (len(labels) + 2)

    def excess(log_temperature: float) -> float:
        return float((logits / math.exp(log_temperature)).softmax(1).amax(1).mean()) - most

    lowest, highest = LOG_TEMPERATURE_BOUNDS
    if excess(lowest) <= 0:
        return lowest
    return float(brentq(excess, lowest, highest)) if excess(highest) < 0 else highest


def confidence_of(
    logits: Tensor, labels: Tensor, temperature: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each prediction's probability and correctness: (N, K), (N,) -> (N,), (N,)."""
    confidence, predicted = (logits.double() / temperature).softmax(1).max(1)
    return confidence.numpy(), (predicted == labels).numpy()


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the calibration of `calibrate_and_scale`."""
    return calibrate_and_scale(logits, labels)[0]


def calibrate_and_scale(logits: Tensor, labels: Tensor) -> tuple[Calibration, Tensor]:
    """Fit the temperature to a validation split's logits (N, K), and measure its effect.

    The second result are the scaled logits, float64 (N, K), that the effect was measured on.

    The effect is measured on images that a temperature was not fitted to: each fifth of the images
    is scaled by the temperature of the others. If the log loss does not fall there, the temperature
    is 1.
    """
    fitted = fit_temperature(logits, labels)
    before, scaled = logits.double(), _cross_fitted(logits, labels)
    losses = [float(nn.functional.cross_entropy(each, labels)) for each in (before, scaled)]
    if fitted.value == 1 or losses[1] >= losses[0]:
        fitted, scaled, losses = Temperature(1.0, fitted.low, fitted.high), before, losses[:1] * 2
    calibration = Calibration(
        method="temperature",
        temperature=fitted.value,
        interval=(fitted.low, fitted.high),
        images=len(labels),
        ece_before=expected_calibration_error(before.softmax(1), labels),
        ece_after=expected_calibration_error(scaled.softmax(1), labels),
        log_loss_before=losses[0],
        log_loss_after=losses[1],
    )
    return calibration, scaled


def _cross_fitted(logits: Tensor, labels: Tensor) -> Tensor:
    """Scale each fold by the temperature of the other folds: (N, K) -> float64 (N, K)."""
    scaled = logits.double()
    folds = min(FOLDS, len(labels))
    if folds < 2:
        return scaled
    scaled = scaled.clone()
    for others, fold in KFold(folds, shuffle=True, random_state=0).split(np.empty(len(labels))):
        rest = torch.from_numpy(others)
        scaled[torch.from_numpy(fold)] /= fit_temperature(logits[rest], labels[rest]).value
    return scaled


def check_calibration(logits: Tensor, labels: Tensor, temperature: float) -> None:
    """Reject a temperature that makes confidence worse on the test set: (N, K), (N,).

    Raises:
        GateError: the log loss is higher than without it, by more than two standard errors.
    """
    losses = [
        nn.functional.cross_entropy(logits.double() / each, labels, reduction="none")
        for each in (temperature, 1.0)
    ]
    rise = losses[0] - losses[1]
    error = float(rise.std() / math.sqrt(len(rise))) if len(rise) > 1 else math.inf
    if float(rise.mean()) > 2 * error:
        raise GateError(
            f"the temperature {temperature:.3f}, fitted to the validation images, raises the log "
            f"loss of the test images from {float(losses[1].mean()):.4f} to "
            f"{float(losses[0].mean()):.4f}: the two are not alike. Check how the images were split"
        )
