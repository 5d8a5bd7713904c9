"""Calibration: probabilities that are right as often as they claim (Guo et al., 2017).

The fit must not make confidence worse, however few the validation images and however many the
classes. So the temperature stays 1 unless the images are evidence against it, and so does the
exponent of `Calibrator`. Each must also help on images that it was not fitted to (cross-fitting).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize, minimize_scalar
from sklearn.model_selection import KFold
from torch import Tensor, nn

from limelight.artifact.measurements import Calibration
from models.calibrator import Calibrator, surprisal
from pipeline.errors import GateError
from pipeline.evaluation.reliability import expected_calibration_error

LOG_TEMPERATURE_BOUNDS = (math.log(0.05), math.log(20.0))
# A lower exponent would magnify the rounding of float32 beyond what an export allows: the surprisal
# of a sure class is a multiple of 6e-8.
LOG_EXPONENT_BOUNDS = (math.log(0.7), math.log(4.0))
FOLDS = 5
# Fewer images say too little of the shape of the confidence.
_FEWEST = 50
# Standard deviation of the priors of log T and of the log exponent around 0: a value of 1/2 or 2 is
# within one and a half of it, and a few dozen images outweigh it.
_PRIOR = 0.5
# Drop of the log posterior at the ends of a 95 % interval (half of chi-squared, one degree).
_DROP = 1.92


@dataclass(frozen=True, slots=True)
class Fitted:
    """Fitted calibrator, and the 95 % interval of its temperature."""

    calibrator: Calibrator
    low: float
    high: float


Fit = Callable[[Tensor, Tensor], Fitted]


def fit_temperature(logits: Tensor, labels: Tensor) -> Fitted:
    """Find the temperature with the lowest log loss: (N, K), (N,) -> T > 0.

    It has a weak prior around 1. It is 1 if the interval contains 1, since the images are then no
    evidence against the network's own confidence. It sharpens at most until the mean confidence is
    that of Laplace's rule; see `_laplace`.
    """
    logits = logits.double()
    best, low, high = _log_temperature(logits, labels)
    if low <= 0 <= high:
        best = 0.0
    elif best < 0:
        best = max(best, min(0.0, _sharpest(logits, _laplace(logits, labels))))
        high = max(high, best)
    return Fitted(Calibrator(math.exp(best)), math.exp(low), math.exp(high))


def fit_prelec(logits: Tensor, labels: Tensor) -> Fitted:
    """Find the most probable temperature and exponent: (N, K), (N,).

    Both have the prior of `fit_temperature`. The exponent is one parameter more, so it stays 1
    unless the log posterior rises by more than ln(N) / 2 (BIC, Schwarz, 1978), and with fewer than
    50 images. The mean confidence is at most that of Laplace's rule, or of the network itself.
    """
    if len(labels) < _FEWEST:
        return fit_temperature(logits, labels)
    logits = logits.double()
    surprisals = surprisal(logits)
    start = np.array([_log_temperature(logits, labels)[0], 0.0])
    value_and_gradient = _prelec_posterior(surprisals, labels)
    found = minimize(
        value_and_gradient,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=(LOG_TEMPERATURE_BOUNDS, LOG_EXPONENT_BOUNDS),
    )
    rise = value_and_gradient(start)[0] - found.fun
    if not rise > math.log(len(labels)) / 2:
        return fit_temperature(logits, labels)
    exponent = math.exp(found.x[1])
    scores = -surprisals.pow(exponent)
    best, low, high = _log_temperature(scores, labels)
    own = float(logits.softmax(1).amax(1).mean())
    best = max(best, _sharpest(scores, max(own, _laplace(logits, labels))))
    return Fitted(Calibrator(math.exp(best), exponent), math.exp(low), math.exp(max(high, best)))


def _prelec_posterior(
    surprisals: Tensor, labels: Tensor
) -> Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]:
    """Return the negative log posterior of (log T, log exponent), (2,), with its gradient."""

    def value_and_gradient(point: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logs = torch.tensor(point, requires_grad=True)
        with torch.enable_grad():
            temperature, exponent = logs.exp()
            scores = -surprisals.pow(exponent) / temperature
            loss = nn.functional.cross_entropy(scores, labels, reduction="sum")
            posterior = loss + (logs / _PRIOR).square().sum() / 2
            (gradient,) = torch.autograd.grad(posterior, logs)
        return float(posterior.detach()), gradient.numpy()

    return value_and_gradient


def _log_temperature(scores: Tensor, labels: Tensor) -> tuple[float, float, float]:
    """Find the most probable log temperature of scores (N, K), and the ends of its interval."""

    def log_posterior(log_temperature: float) -> float:
        """Compute the negative log posterior, without its constant."""
        scaled = scores / math.exp(log_temperature)
        loss = nn.functional.cross_entropy(scaled, labels, reduction="sum")
        return float(loss) + (log_temperature / _PRIOR) ** 2 / 2

    lowest, highest = LOG_TEMPERATURE_BOUNDS
    found = minimize_scalar(log_posterior, bounds=LOG_TEMPERATURE_BOUNDS, method="bounded")
    best, least = float(found.x), float(found.fun)

    def beyond(log_temperature: float) -> float:
        return log_posterior(log_temperature) - least - _DROP

    low = float(brentq(beyond, lowest, best)) if beyond(lowest) > 0 else lowest
    high = float(brentq(beyond, best, highest)) if beyond(highest) > 0 else highest
    return best, low, high


def _laplace(logits: Tensor, labels: Tensor) -> float:
    """Compute (right + 1) / (N + 2), Laplace's rule of succession.

    N images without an error are no proof that the network makes none.
    """
    right = int((logits.argmax(1) == labels).sum())
    return (right + 1) / (len(labels) + 2)


def _sharpest(scores: Tensor, most: float) -> float:
    """Find the log temperature at which the mean confidence of scores (N, K) is `most`."""

    def excess(log_temperature: float) -> float:
        return float((scores / math.exp(log_temperature)).softmax(1).amax(1).mean()) - most

    lowest, highest = LOG_TEMPERATURE_BOUNDS
    if excess(lowest) <= 0:
        return lowest
    return float(brentq(excess, lowest, highest)) if excess(highest) < 0 else highest


def confidence_of(
    logits: Tensor, labels: Tensor, calibrator: Calibrator
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each prediction's probability and correctness: (N, K), (N,) -> (N,), (N,)."""
    confidence, predicted = calibrator(logits.double()).softmax(1).max(1)
    return confidence.numpy(), (predicted == labels).numpy()


@dataclass(frozen=True, slots=True)
class Tried:
    """A fitted calibrator, and its effect on images that it was not fitted to."""

    fitted: Fitted
    calibrated: Tensor
    """Logits of the images, float64 (N, K), each calibrated by what was fitted to others."""
    log_loss: float


def try_calibrators(logits: Tensor, labels: Tensor) -> list[Tried]:
    """Try no calibration, a temperature, and a temperature with an exponent: (N, K), (N,).

    A calibrator that is one of those before it is left out. Each fifth of the images is calibrated
    by what is fitted to the others.
    """
    before, by_temperature = logits.double(), fit_temperature(logits, labels)
    none = Fitted(Calibrator(), by_temperature.low, by_temperature.high)
    tried = [Tried(none, before, _log_loss(before, labels))]
    for fit, fitted in (
        (fit_temperature, by_temperature),
        (fit_prelec, fit_prelec(logits, labels)),
    ):
        if all(fitted.calibrator != each.fitted.calibrator for each in tried):
            calibrated = _cross_fitted(fit, logits, labels)
            tried.append(Tried(fitted, calibrated, _log_loss(calibrated, labels)))
    return tried


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Return the calibration of `calibrate_and_apply`."""
    return calibrate_and_apply(logits, labels)[0]


def calibrate_and_apply(logits: Tensor, labels: Tensor) -> tuple[Calibration, Tensor]:
    """Take the calibrator of `try_calibrators` with the lowest log loss, and measure its effect.

    The second result are the calibrated logits, float64 (N, K), that the effect was measured on.
    """
    before, *others = try_calibrators(logits, labels)
    best = min((before, *others), key=lambda tried: tried.log_loss)
    calibrator = best.fitted.calibrator
    calibration = Calibration(
        method="temperature" if calibrator.exponent == 1 else "prelec",
        temperature=calibrator.temperature,
        exponent=calibrator.exponent,
        interval=(best.fitted.low, best.fitted.high),
        images=len(labels),
        ece_before=expected_calibration_error(before.calibrated.softmax(1), labels),
        ece_after=expected_calibration_error(best.calibrated.softmax(1), labels),
        log_loss_before=before.log_loss,
        log_loss_after=best.log_loss,
    )
    return calibration, best.calibrated


def _log_loss(logits: Tensor, labels: Tensor) -> float:
    return float(nn.functional.cross_entropy(logits, labels))


def _cross_fitted(fit: Fit, logits: Tensor, labels: Tensor) -> Tensor:
    """Calibrate each fold by what is fitted to the other folds: (N, K) -> float64 (N, K)."""
    calibrated = logits.double().clone()
    folds = min(FOLDS, len(labels))
    if folds < 2:
        return calibrated
    for others, fold in KFold(folds, shuffle=True, random_state=0).split(np.empty(len(labels))):
        rest, here = torch.from_numpy(others), torch.from_numpy(fold)
        calibrated[here] = fit(logits[rest], labels[rest]).calibrator(calibrated[here])
    return calibrated


def check_calibration(logits: Tensor, labels: Tensor, calibrator: Calibrator) -> None:
    """Reject a calibration that makes confidence worse on the test set: (N, K), (N,).

    Raises:
        GateError: the log loss is higher than without it, by more than two standard errors.
    """
    losses = [
        nn.functional.cross_entropy(each(logits.double()), labels, reduction="none")
        for each in (calibrator, Calibrator())
    ]
    rise = losses[0] - losses[1]
    error = float(rise.std() / math.sqrt(len(rise))) if len(rise) > 1 else math.inf
    if float(rise.mean()) > 2 * error:
        raise GateError(
            f"the calibration (temperature {calibrator.temperature:.3f}, exponent "
            f"{calibrator.exponent:.3f}), fitted to the validation images, raises the log loss of "
            f"the test images from {float(losses[1].mean()):.4f} to {float(losses[0].mean()):.4f}: "
            "the two are not alike. Check how the images were split"
        )
