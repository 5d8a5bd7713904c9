"""Calibrated logits, compared with probabilities computed by hand."""

import math

import numpy as np
import pytest
import torch

from models.calibrator import Calibrator


def test_temperature_divides_the_logits() -> None:
    logits = torch.tensor([[3.0, -1.0, 0.5]])
    torch.testing.assert_close(Calibrator(2.0)(logits), logits / 2, rtol=0, atol=0)


def test_exponent_is_that_of_the_log_probabilities() -> None:
    probabilities = np.array([0.7, 0.2, 0.1])
    weighted = [math.exp(-((-math.log(p)) ** 1.5) / 0.8) for p in probabilities]
    calibrated = Calibrator(0.8, 1.5)(torch.from_numpy(np.log(probabilities))[None]).softmax(1)
    np.testing.assert_allclose(calibrated[0], np.array(weighted) / sum(weighted), rtol=1e-12)


def test_exponent_near_one_is_temperature_scaling() -> None:
    logits = torch.randn(100, 10, generator=torch.Generator().manual_seed(0)).double()
    near, scaled = (Calibrator(1.3, exponent)(logits).softmax(1) for exponent in (1 + 1e-9, 1.0))
    torch.testing.assert_close(near, scaled, rtol=1e-7, atol=0)


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.9])
def test_predicted_classes_and_their_order_stay(exponent: float) -> None:
    logits = 5 * torch.randn(500, 10, generator=torch.Generator().manual_seed(0))
    calibrated = Calibrator(1.7, exponent)(logits)
    np.testing.assert_array_equal(calibrated.argsort(1), logits.argsort(1))


@pytest.mark.parametrize("exponent", [0.7, 1.3, 4.0])
@pytest.mark.parametrize("gap", [3.0, 15.0, 25.0])
def test_float32_gives_the_probabilities_of_float64(exponent: float, gap: float) -> None:
    """By less than a tenth of what an export allows between its formats."""
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2000, 10, generator=rng)
    logits[:, 3] += gap * torch.rand(2000, generator=rng)
    calibrator = Calibrator(0.5, exponent)
    single, double = (calibrator(each).softmax(1) for each in (logits, logits.double()))
    assert float((single - double).abs().max()) < 1e-6


@pytest.mark.parametrize("exponent", [0.5, 1.9])
def test_network_that_is_quite_sure_gives_finite_probabilities(exponent: float) -> None:
    logits = torch.tensor([[900.0, 0.0, -900.0], [0.0, 0.0, 0.0], [1e-7, 0.0, -90.0]])
    calibrated = Calibrator(0.4, exponent)(logits)
    assert torch.isfinite(calibrated).all()
    assert calibrated.softmax(1)[0].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
