"""Registry of the common corruptions, and how one is applied.

They serve to measure a network. `pipeline/training/augmentation/corruptions.py` has those that a
network may be trained with: other code, other strengths and other random numbers.
"""

import zlib
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.common_corruptions import blur, digital, noise, weather
from pipeline.evaluation.common_corruptions.resampling import Floats
from pipeline.evaluation.common_corruptions.severities import parameters_of, published_for

CORRUPTIONS: Mapping[str, Callable[..., Floats]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "defocus_blur": blur.defocus_blur,
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "zoom_blur": blur.zoom_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic_transform": digital.elastic_transform,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
}
"""The corruptions by name: levels from 0 to 1 (N, H, W, C), random numbers and parameters in,
levels out, which may lie beyond 0 and 1. Images have 1 or 3 channels."""
# Levels are cut, not rounded, as in the published data sets. Those that did not change stay equal.
_ROUNDING = 1e-3


def corrupt(
    images_nhwc: NDArray[np.uint8], corruption: str, severity: int, *, seed: int = 0
) -> NDArray[np.uint8]:
    """Corrupt uint8 images (N, H, W, C) of any size, at a severity of 1 to 5.

    The same images, corruption, severity and seed give the same result. The parameters are those
    of the published data set whose images have about this size.
    """
    source = published_for(*images_nhwc.shape[1:3])
    rng = np.random.default_rng([seed, severity, zlib.crc32(corruption.encode())])
    levels = CORRUPTIONS[corruption](
        images_nhwc / np.float32(255), rng, *parameters_of(source, corruption, severity)
    )
    corrupted: NDArray[np.uint8] = (levels.clip(0, 1) * 255 + _ROUNDING).astype(np.uint8)
    return corrupted
