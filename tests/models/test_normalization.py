"""Mean and standard deviation of images."""

import numpy as np
import pytest
import torch

from models.normalization import Normalisation


@pytest.mark.parametrize("level", [0, 7, 100, 255])
@pytest.mark.parametrize("count", [20, 1_000])
def test_constant_channel_stays_at_zero(level: int, count: int) -> None:
    """Its variance may differ from 0 by rounding."""
    images_nhwc = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    images_nhwc[..., 2] = level
    measured = Normalisation.of([images_nhwc])
    assert measured.std[2] == 1.0
    normalised_nchw = measured.on(torch.device("cpu"))(torch.from_numpy(images_nhwc[:2]))
    assert normalised_nchw[:, 2].abs().max() < 1e-6
    assert float(normalised_nchw[:, 0].std()) == pytest.approx(1, abs=0.1)
