"""Noise: normal, of photons, and of dead pixels. Levels are float32 from 0 to 1, (N, H, W, C)."""

import numpy as np
from numpy.random import Generator

from pipeline.evaluation.common_corruptions.resampling import Floats


def gaussian_noise(levels_nhwc: Floats, rng: Generator, deviation: float) -> Floats:
    """Add normal noise."""
    noise = rng.standard_normal(levels_nhwc.shape, np.float32)
    return levels_nhwc + np.float32(deviation) * noise


def shot_noise(levels_nhwc: Floats, rng: Generator, photons: float) -> Floats:
    """Count photons, of which white has `photons`: Poisson noise."""
    counted: Floats = (rng.poisson(levels_nhwc * photons) / photons).astype(np.float32)
    return counted


def impulse_noise(levels_nhwc: Floats, rng: Generator, share: float) -> Floats:
    """Replace a share of the values by 0 or 1."""
    drawn = rng.random(levels_nhwc.shape, np.float32)
    return np.where(drawn < share, np.float32(drawn < share / 2), levels_nhwc)
