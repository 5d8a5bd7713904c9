"""Pictures without any object of the world: fractals, shapes, strokes and gratings.

Training mixes them into its images (PixMix, Hendrycks et al., 2022, arXiv 2112.05135), and shows
them as examples of no class (Outlier Exposure, Hendrycks et al., 2019, arXiv 1812.04606). None of
them is drawn like the OOD images of `pipeline.evaluation.ood_datasets`, which measure the result.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Pixels = NDArray[np.uint8]

# Particles and steps of the chaos game: enough points to fill a small picture.
_PARTICLES, _STEPS, _SETTLING = 300, 30, 8
# Lines and shapes are drawn larger and reduced, so that their edges are smooth.
_OVERSAMPLING = 3


def draw_pictures(
    rng: np.random.Generator, count: int, *, height: int, width: int, channels: int
) -> Pixels:
    """Draw pictures of all kinds in equal shares: uint8 (count, height, width, channels)."""
    size = max(height, width)
    pictures = np.empty((count, height, width, channels), np.uint8)
    for number in range(count):
        picture = _KINDS[number % len(_KINDS)](rng, size)
        mode = "RGB" if channels == 3 else "L"
        pixels = np.asarray(picture.convert(mode)).reshape(size, size, channels)
        pictures[number] = pixels[:height, :width]
    return pictures


def _fractal(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw the attractor of some random affine maps, found by the chaos game."""
    maps = int(rng.integers(2, 5))
    matrices = rng.uniform(-1, 1, (maps, 2, 2))
    # Contractions, so that the points stay together.
    matrices *= (rng.uniform(0.4, 0.9, maps) / np.linalg.norm(matrices, 2, (1, 2)))[:, None, None]
    shifts = rng.uniform(-1, 1, (maps, 2))
    points, seen = rng.uniform(-1, 1, (_PARTICLES, 2)), []
    for step in range(_STEPS):
        chosen = rng.integers(maps, size=_PARTICLES)
        points = np.einsum("nij,nj->ni", matrices[chosen], points) + shifts[chosen]
        if step >= _SETTLING:
            seen.append(points)
    x, y = np.concatenate(seen).T
    density, _, _ = np.histogram2d(x, y, size)
    shade = (np.log1p(density) / max(np.log1p(density).max(), 1e-9))[:, :, None]
    back, front = _two_colours(rng)
    return _picture(back + (front - back) * shade**0.5)


def _shapes(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw polygons and ellipses on an even background."""
    back, front = _two_colours(rng)
    image, pen = _canvas(size, back)
    for _ in range(int(rng.integers(1, 6))):
        corners = rng.uniform(0, size * _OVERSAMPLING, (int(rng.integers(2, 7)), 2))
        colour = _ink(front if rng.random() < 0.5 else rng.uniform(0, 255, 3))
        if len(corners) == 2:
            (left, top), (right, bottom) = corners.min(0), corners.max(0)
            pen.ellipse((left, top, right, bottom), fill=colour)
        else:
            pen.polygon([(x, y) for x, y in corners.tolist()], fill=colour)
    return _reduced(image, size)


def _strokes(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw curved strokes on an even background."""
    back, front = _two_colours(rng)
    image, pen = _canvas(size, back)
    side = size * _OVERSAMPLING
    for _ in range(int(rng.integers(1, 5))):
        turns = rng.normal(rng.normal(0, 0.1), 0.25, int(rng.integers(6, 30))).cumsum()
        directions = turns + rng.uniform(0, 2 * math.pi)
        steps = np.stack([np.cos(directions), np.sin(directions)], 1) * side / 24
        points = rng.uniform(0.2, 0.8, 2) * side + steps.cumsum(0)
        thickness = int(rng.integers(_OVERSAMPLING, 5 * _OVERSAMPLING))
        pen.line([(x, y) for x, y in points.tolist()], _ink(front), thickness, joint="curve")
    return _reduced(image, size)


def _gratings(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a sum or a product of waves, smooth or with sharp edges."""
    y, x = np.mgrid[0:size, 0:size] / size
    waves = []
    for _ in range(int(rng.integers(1, 4))):
        angle, phase = rng.uniform(0, 2 * math.pi, 2)
        distance = x * math.cos(angle) + y * math.sin(angle)
        if rng.random() < 0.3:
            centre = rng.uniform(0, 1, 2)
            distance = np.hypot(x - centre[0], y - centre[1])
        waves.append(np.sin(2 * math.pi * rng.uniform(1, max(1.0, size / 5)) * distance + phase))
    level = np.prod(waves, 0) if rng.random() < 0.5 else np.mean(waves, 0)
    if rng.random() < 0.5:
        level = np.sign(level)
    back, front = _two_colours(rng)
    return _picture(back + (front - back) * (0.5 + 0.5 * level)[:, :, None])


_KINDS: tuple[Callable[[np.random.Generator, int], Image.Image], ...] = (
    _fractal,
    _shapes,
    _strokes,
    _gratings,
)


def _two_colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw two colours, in some pictures nearly black and nearly white."""
    back, front = rng.uniform(0, 255, (2, 3))
    if rng.random() < 0.4:
        dark, light = np.full(3, rng.uniform(0, 40)), np.full(3, rng.uniform(170, 255))
        back, front = (dark, light) if rng.random() < 0.6 else (light, dark)
    return back, front


def _ink(colour: NDArray[np.float64]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue


def _canvas(size: int, back: NDArray[np.float64]) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    side = size * _OVERSAMPLING
    image = Image.new("RGB", (side, side), _ink(back))
    return image, ImageDraw.Draw(image)


def _reduced(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BOX)


def _picture(levels: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(np.rint(levels).clip(0, 255).astype(np.uint8))
