"""Scenes with an object at a known place: an enlarged small image on a synthetic background.

For photographs, somebody would have to annotate the object's place. Everything random comes from
the generator that is passed in.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.explanations.bounding_box import Box
from limelight.imaging.preprocessing import picture_of

# Cells along a side of the grids of noise: from half of the scene down to a few pixels.
_GRIDS = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class Scene:
    """An image, and the box of its object."""

    image_hwc: NDArray[np.uint8]
    box: Box
    """Whole pixels of the scene."""


def make_scene(
    image_hwc: NDArray[np.uint8],
    rng: np.random.Generator,
    *,
    side: int,
    size: int,
    feather: float = 0.1,
) -> Scene:
    """Enlarge a square image to `side` pixels and put it on a background of `size`, at random.

    The scene has the channels of the image, (H, W, C): grey or RGB. The object fades into the
    background over `feather` of its side, so that no frame is visible.

    Raises:
        ValueError: the image is not square, or larger than the scene; or more than half of its
            side is feathered.
    """
    height, width, channels = image_hwc.shape
    if height != width:
        raise ValueError(f"the object must be square, not {width} x {height}")
    if not 1 <= side <= size:
        raise ValueError(f"an object of {side} pixels does not fit into a scene of {size}")
    if not 0 <= feather <= 0.5:
        raise ValueError(f"feather is {feather}, and must be 0 to 0.5")
    scene = background(rng, size=size, channels=channels)
    left, top = (int(place) for place in rng.integers(0, size - side, 2, endpoint=True))
    place = np.s_[top : top + side, left : left + side]
    opacity = _opacity(side, feather)[:, :, None]
    blended = opacity * _enlarged(image_hwc, side) + (1 - opacity) * scene[place]
    scene[place] = np.rint(blended).astype(np.uint8)
    return Scene(scene, Box(left, top, left + side, top + side))


def background(rng: np.random.Generator, *, size: int, channels: int) -> NDArray[np.uint8]:
    """Draw a square texture without any object: (size, size, channels).

    A gradient between two colours, noise of all scales, and waves as in sand or cloth. The
    proportions are random.
    """
    one, other = rng.uniform(50, 205, (2, 1)) + rng.normal(0, 20, (2, channels))
    across = _wave(rng, size, cycles=0.5)[:, :, None]
    levels = one + (other - one) * (0.5 + 0.5 * across)
    roughness = rng.uniform(0.5, 1.0)
    strength = rng.uniform(4, 24)
    for octave, cells in enumerate(_GRIDS):
        levels += strength * roughness**octave * _noise(rng, size, cells, channels)
    waves = _wave(rng, size, cycles=rng.uniform(min(4, size / 16), size / 8))
    levels += rng.uniform(0, 16) * waves[:, :, None]
    pixels: NDArray[np.uint8] = np.rint(levels).clip(0, 255).astype(np.uint8)
    return pixels


def _wave(rng: np.random.Generator, size: int, *, cycles: float) -> NDArray[np.float64]:
    """Draw a sine wave of `cycles` along the side, in a random direction and phase: -1 to 1."""
    angle, phase = rng.uniform(0, 2 * math.pi, 2)
    y, x = np.mgrid[0:size, 0:size] / size
    distance = x * math.cos(angle) + y * math.sin(angle)
    wave: NDArray[np.float64] = np.sin(2 * math.pi * cycles * distance + phase)
    return wave


def _noise(rng: np.random.Generator, size: int, cells: int, channels: int) -> NDArray[np.float32]:
    """Draw normal noise on a grid, interpolated smoothly; the channels are correlated."""
    shades = rng.normal(size=(cells, cells, 1)) + 0.3 * rng.normal(size=(cells, cells, channels))
    return np.stack(
        [
            _resized(Image.fromarray(shades[:, :, channel].astype(np.float32)), size)
            for channel in range(channels)
        ],
        axis=2,
    )


def _enlarged(image_hwc: NDArray[np.uint8], side: int) -> NDArray[np.float32]:
    return _resized(picture_of(image_hwc), side).reshape(side, side, -1)


def _resized(image: Image.Image, side: int) -> NDArray[np.float32]:
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32)


def _opacity(side: int, feather: float) -> NDArray[np.float64]:
    """Compute the opacity: 1 in the middle, falling towards the edges: (side, side)."""
    from_edge = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    ramp = np.minimum(from_edge / max(feather * side, 0.5), 1.0)
    opacity: NDArray[np.float64] = np.outer(ramp, ramp)
    return opacity
