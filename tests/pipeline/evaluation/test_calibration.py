"""Calibration, compared with scikit-learn's log loss and numbers computed by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss

from pipeline.evaluation.calibration import calibrate, expected_calibration_error, fit_temperature


def _overconfident(temperature: float, images: int = 20_000) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose labels are drawn from softmax(logits / temperature)."""
    rng = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(images, 5, generator=rng)
    labels = torch.multinomial((logits / temperature).softmax(1), 1, generator=rng)[:, 0]
    return logits, labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_fit_finds_the_temperature_that_generated_the_labels(temperature: float) -> None:
    assert fit_temperature(*_overconfident(temperature)) == pytest.approx(temperature, rel=0.04)


def test_calibration_lowers_log_loss_and_calibration_error() -> None:
    logits, labels = _overconfident(3.0)
    calibration = calibrate(logits, labels)
    before = log_loss(labels, logits.double().softmax(1))
    after = log_loss(labels, (logits.double() / calibration.temperature).softmax(1))
    assert after < before - 0.1
    assert calibration.ece_after < 0.02 < calibration.ece_before


def test_confidence_stays_below_1_without_validation_errors() -> None:
    labels = torch.arange(200) % 10
    logits = 5 * torch.nn.functional.one_hot(labels, 10).float()
    confidence = (logits / fit_temperature(logits, labels)).softmax(1).max()
    # Platt's target for 200 images in 10 classes without an error.
    assert float(confidence) == pytest.approx(201 / 210, abs=1e-3)


def test_calibration_error_equals_hand_computed_value() -> None:
    # Four predictions of confidence 0.8, two of them correct: |0.8 - 0.5|.
    probabilities = torch.tensor([[0.8, 0.2]] * 4)
    labels = torch.tensor([0, 0, 1, 1])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.3, abs=1e-6)


def test_temperature_does_not_change_predicted_classes() -> None:
    logits, labels = _overconfident(3.0, images=500)
    scaled = logits / fit_temperature(logits, labels)
    np.testing.assert_array_equal(scaled.argmax(1), logits.argmax(1))
