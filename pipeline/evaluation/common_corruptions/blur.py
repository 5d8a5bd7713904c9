"""Blur: out of focus, through glass, of a motion, of a zoom. Levels from 0 to 1, (N, H, W, C)."""

import math

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import correlate, gaussian_filter

from pipeline.evaluation.common_corruptions.resampling import Floats, picked, zoomed

_NEGLIGIBLE = 1e-5
"""Share of a blur that is left out: a four-hundredth of a grey level."""


def defocus_blur(levels_nhwc: Floats, rng: Generator, radius: float, edge: float) -> Floats:
    """Blur by a disc of `radius` pixels, whose edge is blurred by the deviation `edge`."""
    reach = math.floor(radius)
    offsets = np.arange(-reach, reach + 1)
    disc = (np.hypot(*np.meshgrid(offsets, offsets)) <= radius).astype(np.float32)
    softened = 1 if radius <= 8 else 2
    taps = np.exp(-((np.arange(-softened, softened + 1) / edge) ** 2) / 2)
    disc = correlate(np.pad(disc, softened), np.outer(taps, taps), mode="constant")
    kernel = disc / disc.sum()
    blurred: Floats = correlate(levels_nhwc, kernel[None, :, :, None], mode="mirror")
    return blurred


def glass_blur(
    levels_nhwc: Floats, rng: Generator, deviation: float, reach: float, rounds: float
) -> Floats:
    """Blur, displace pixels by up to `reach` in each of some rounds, and blur again."""
    count, height, width, channels = levels_nhwc.shape
    blurred = np.floor(_smoothed(levels_nhwc, deviation) * 255 + 1e-3) / np.float32(255)
    sources = [_displaced(rng, height, width, int(reach), int(rounds)) for _ in range(count)]
    pixels = blurred.reshape(count, height * width, channels)
    shuffled = np.take_along_axis(pixels, np.stack(sources)[..., None], 1)
    return _smoothed(shuffled.reshape(levels_nhwc.shape), deviation)


def _displaced(
    rng: Generator, height: int, width: int, reach: int, rounds: int
) -> NDArray[np.int64]:
    """Return for each pixel of an image the place that it shows, (H * W,).

    Each pixel in turn, from the last to the first, takes what a neighbour shows. The paper speaks
    of exchanging the two, but the published data sets were made so: the script assigns views.
    """
    places = np.arange(height * width).reshape(height, width)
    turns = np.tile(places[height - reach : reach : -1, width - reach : reach : -1].ravel(), rounds)
    steps = rng.integers(-reach, reach, (2, len(turns)))
    neighbours = turns + steps[0] * width + steps[1]
    shown = places.ravel().tolist()
    for pixel, neighbour in zip(turns.tolist(), neighbours.tolist(), strict=True):
        shown[pixel] = shown[neighbour]
    return np.array(shown)


def _smoothed(levels_nhwc: Floats, deviation: float) -> Floats:
    smoothed: Floats = gaussian_filter(levels_nhwc, (0, deviation, deviation, 0), mode="nearest")
    return smoothed


def motion_blur(levels_nhwc: Floats, rng: Generator, radius: float, deviation: float) -> Floats:
    """Blur along a line, up to 45 degrees from the horizontal."""
    return moved(levels_nhwc, rng.uniform(-45, 45, len(levels_nhwc)), radius, deviation)


def moved(
    levels_nhwc: Floats, degrees: NDArray[np.float64], radius: float, deviation: float
) -> Floats:
    """Blur each image along a line that begins at the pixel, as ImageMagick's motion blur does.

    The weights are half of a normal distribution over 2 * `radius` + 1 steps of a pixel in the
    direction `degrees`, (N,). Beyond the edge its last pixel is repeated.
    """
    _, height, width, _ = levels_nhwc.shape
    steps = np.arange(2 * int(radius) + 1)
    weights = np.exp(-((steps / deviation) ** 2) / 2)
    weights /= weights.sum()
    along = np.deg2rad(degrees)[:, None, None]
    rows, columns = np.arange(height)[:, None], np.arange(width)
    blurred = np.zeros_like(levels_nhwc)
    for step in steps[weights > _NEGLIGIBLE].tolist():
        down = np.ceil(step * np.sin(along) - 0.5).astype(np.int64)
        right = np.ceil(step * np.cos(along) - 0.5).astype(np.int64)
        there = picked(
            levels_nhwc,
            np.clip(rows + down, 0, height - 1),
            np.clip(columns + right, 0, width - 1),
        )
        blurred += np.float32(weights[step]) * there
    return blurred


def zoom_blur(levels_nhwc: Floats, rng: Generator, factors: float, step: float) -> Floats:
    """Average the image and `factors` enlargements of its middle, 0, 1, 2, ... `step` larger."""
    enlarged = [zoomed(levels_nhwc, 1 + step * number) for number in range(int(factors))]
    mean: Floats = (levels_nhwc + sum(enlarged)) / np.float32(factors + 1)
    return mean
