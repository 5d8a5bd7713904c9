"""Calibration, compared with scikit-learn's log loss and numbers computed by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from models.calibrator import Calibrator
from pipeline.errors import GateError
from pipeline.evaluation.calibration import (
    calibrate,
    check_calibration,
    fit_prelec,
    fit_temperature,
)
from pipeline.evaluation.reliability import expected_calibration_error


def _overconfident(temperature: float, images: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(images, 5, generator=rng)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=rng)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_finds_the_temperature_that_generated_the_labels(temperature: float) -> None:
    fitted = fit_temperature(*_overconfident(temperature))
    assert fitted.calibrator.exponent == 1
    assert fitted.calibrator.temperature == pytest.approx(temperature, rel=0.04)
    assert fitted.low < temperature < fitted.high < 1.1 * fitted.low


def test_calibration_lowers_log_loss_and_calibration_error() -> None:
    logits, labels = _overconfident(3.0)
    calibration = calibrate(logits, labels)
    before = log_loss(labels, logits.double().softmax(1))
    after = log_loss(labels, (logits.double() / calibration.temperature).softmax(1))
    assert after < before - 0.1
    assert calibration.ece_after < 0.02 < calibration.ece_before
    assert calibration.log_loss_before == pytest.approx(before)
    assert calibration.log_loss_after == pytest.approx(after, rel=1e-3)


@pytest.mark.parametrize(("temperature", "exponent"), [(1.6, 1.4), (0.8, 0.7)])
def test_fit_finds_the_exponent_that_generated_the_labels(
    temperature: float, exponent: float
) -> None:
    """The shape that label smoothing and CutMix leave cannot be corrected by a temperature."""
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=rng)
    true = Calibrator(temperature, exponent)
    probabilities = true(logits).softmax(1)
    labels = torch.multinomial(probabilities, 1, generator=rng)[:, 0]
    calibration = calibrate(logits, labels)
    assert calibration.method == "prelec"
    assert calibration.interval is not None
    assert calibration.interval[0] < calibration.temperature < calibration.interval[1]
    assert calibration.temperature == pytest.approx(temperature, rel=0.05)
    assert calibration.exponent == pytest.approx(exponent, rel=0.05)
    by_temperature = fit_temperature(logits, labels).calibrator(logits.double())
    assert calibration.log_loss_after is not None
    assert calibration.log_loss_after < log_loss(labels, by_temperature.softmax(1)) - 0.002
    assert calibration.ece_after < expected_calibration_error(probabilities, labels) + 0.005


def _calibrated(
    images: int, classes: int, scale: float, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are calibrated by construction: labels are drawn from their softmax."""
    rng = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(images, classes, generator=rng, dtype=torch.double)
    return logits, torch.multinomial(logits.softmax(1), 1, generator=rng)[:, 0]


@pytest.mark.parametrize(
    ("classes", "images", "scale"),
    [(2, 12, 3.0), (4, 21, 4.0), (10, 30, 5.0), (10, 150, 5.0), (37, 150, 6.0), (300, 2000, 9.0)],
)
def test_calibration_does_no_harm_to_calibrated_logits(
    classes: int, images: int, scale: float
) -> None:
    fresh, labels = _calibrated(4000, classes, scale, seed=99)
    before = expected_calibration_error(fresh.softmax(1), labels)
    rises = []
    for seed in range(10 if images < 1000 else 3):
        calibrator = Calibrator.of(calibrate(*_calibrated(images, classes, scale, seed)))
        after = expected_calibration_error(calibrator(fresh).softmax(1), labels)
        rises.append(after - before)
    assert np.mean(rises) < 0.005
    # The interval misses 1 in one fit of twenty, where the temperature may be wrong by its width.
    assert np.count_nonzero(np.abs(rises) > 1e-6) <= 3


def test_many_classes_that_are_nearly_always_right_stay_confident() -> None:
    """Platt's correction for each class gave 1 + N / K images too little confidence here."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(600) % 120
    logits = torch.randn(600, 120, generator=rng) + 12 * torch.nn.functional.one_hot(labels, 120)
    right = logits.argmax(1)
    right[:24] = (right[:24] + 1) % 120
    calibration = calibrate(logits, right)
    assert calibration.ece_after < 0.03


def test_network_without_validation_errors_is_as_sure_as_their_number_allows() -> None:
    labels = torch.arange(200) % 10
    logits = 5 * torch.nn.functional.one_hot(labels, 10).float()
    for fit in (fit_temperature, fit_prelec):
        confidence = fit(logits, labels).calibrator(logits).softmax(1).max()
        assert float(confidence) == pytest.approx(201 / 202, abs=1e-4)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("images", [1, 2, 5, 49])
def test_few_images_are_no_evidence_for_an_exponent(images: int, classes: int) -> None:
    logits = 6 * torch.randn(images, classes, generator=torch.Generator().manual_seed(1))
    for labels in (logits.argmax(1), logits.argmin(1)):
        assert fit_prelec(logits, labels).calibrator.exponent == 1


@pytest.mark.parametrize(("images", "seed"), [(60, 0), (200, 1)])
def test_network_that_is_wrong_more_often_than_by_chance_is_not_made_wholly_unsure(
    images: int, seed: int
) -> None:
    """A confidence below one half is impossible with two classes, so Laplace's rule is no limit."""
    rng = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(images, 2, generator=rng)
    right = torch.rand(images, generator=rng) < 0.4
    labels = torch.where(right, logits.argmax(1), logits.argmin(1))
    for fit in (fit_temperature, fit_prelec):
        assert fit(logits, labels).calibrator.temperature < 15


def test_temperature_that_the_images_do_not_demand_is_one() -> None:
    logits, labels = _overconfident(1.15, images=60)
    fitted = fit_temperature(logits, labels)
    assert fitted.low < 1 < fitted.high
    assert fitted.calibrator == Calibrator()
    assert fit_prelec(logits, labels).calibrator == Calibrator()


def test_calibration_that_hurts_test_images_is_rejected() -> None:
    logits, labels = _overconfident(1.0, images=2000)
    check_calibration(logits, labels, Calibrator(1.02))
    with pytest.raises(GateError, match=r"temperature 3\.000, .* raises the log loss"):
        check_calibration(logits, labels, Calibrator(3.0))
    with pytest.raises(GateError, match=r"exponent 2\.000\), .* raises the log loss"):
        check_calibration(logits, labels, Calibrator(1.0, 2.0))


def test_calibration_error_equals_hand_computed_value() -> None:
    # Four predictions of confidence 0.8, two of them correct: |0.8 - 0.5|.
    probabilities = torch.tensor([[0.8, 0.2]] * 4)
    labels = torch.tensor([0, 0, 1, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.3, abs=1e-6)
