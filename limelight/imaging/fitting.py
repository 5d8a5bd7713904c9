"""Cropping and resizing of an upload to the network's input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.imaging.image_rule import ImageRule
from limelight.imaging.strips import REDUCING_GAP, Strips

# MNIST's layout: the ink's longest side is 20 of 28 pixels.
_INK_SHARE = 20 / 28
# The ink's centre of mass is in pixel 14, counted from 0. Over the training images it is
# (14.51, 14.50) from the edges with a deviation of 0.29, which is that of rounding to whole pixels.
# This figure and that of `_INK_THRESHOLD`: `python -m bench.ink_layout`.
_MIDDLE = 0.5
# Ink is placed on a canvas of this many times the input's resolution, then averaged.
_CANVAS_SCALE = 8
# Share of the strongest ink above which a pixel is inside the ink's bounding box. Of 0.1 to 0.5,
# this value restores enlarged training digits best (mean error of 6.4 grey levels).
_INK_THRESHOLD = 0.35
# Contrast between background and ink, in grey levels, below which an image counts as blank.
_MIN_CONTRAST = 16


@dataclass(frozen=True, slots=True)
class View:
    """Rectangle of the upload, in its pixels, that the network's input covers.

    It may reach outside the upload. Position (x, y) of an input of w by h pixels is the upload's
    (left + x * width / w, top + y * height / h), edges counted from 0.
    """

    left: float
    top: float
    width: float
    height: float

    def scaled(self, x: float, y: float) -> "View":
        """Return the same rectangle of an upload `x` times as wide and `y` times as high."""
        return View(self.left * x, self.top * y, self.width * x, self.height * y)


def fit_crop(image: Image.Image | Strips, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """Resize the largest centred rectangle of the input's proportions."""
    scale = min(image.width / rule.width, image.height / rule.height)
    width = min(rule.width * scale, float(image.width))
    height = min(rule.height * scale, float(image.height))
    left, top = (image.width - width) / 2, (image.height - height) / 2
    resized = _resize(image, (rule.width, rule.height), (left, top, left + width, top + height))
    return np.array(resized), View(left, top, width, height)


def fit_ink(image: Image.Image | Strips, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """Extract the ink, stretch it to the full range and lay it out as in MNIST, in grey.

    Memory stays bounded for any proportions of the upload: the ink is first resized to a canvas of
    `_CANVAS_SCALE` times the input, and then averaged.
    """
    grey = image if image.mode == "L" else image.convert("L")
    background = border_median(grey)
    contrast = _brightest(grey) - background
    if contrast < _MIN_CONTRAST:
        return fit_crop(image, rule)
    above = np.maximum(np.arange(256) - background, 0)
    stretched = np.rint(255 * np.minimum(above / contrast, 1)).astype(np.uint8)
    ink = grey.point(stretched.tolist())
    threshold = round(255 * _INK_THRESHOLD)
    bounds = ink.point([0] * threshold + [255] * (256 - threshold)).getbbox()
    if bounds is None:  # unreachable, because the brightest pixel is 255
        return fit_crop(image, rule)
    left, top, right, bottom = bounds

    canvas_size = (rule.width * _CANVAS_SCALE, rule.height * _CANVAS_SCALE)
    scale = min(canvas_size) * _INK_SHARE / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    drawn = _resize(ink, size, bounds)
    centre_x, centre_y = _centre_of_mass(np.asarray(drawn))
    # In whole pixels of the input, so that straight edges stay as sharp as in MNIST.
    offset_x = round(rule.width // 2 + _MIDDLE - centre_x / _CANVAS_SCALE) * _CANVAS_SCALE
    offset_y = round(rule.height // 2 + _MIDDLE - centre_y / _CANVAS_SCALE) * _CANVAS_SCALE
    offset = offset_x, offset_y
    canvas = Image.new("L", canvas_size)
    canvas.paste(drawn, offset)

    pixels = np.asarray(canvas.reduce(_CANVAS_SCALE), np.float64)
    brightened = np.rint(pixels * (255 / max(pixels.max(), 1.0))).astype(np.uint8)
    # Upload pixels per canvas pixel; the two steps differ only by the rounding of `size`.
    step_x, step_y = (right - left) / size[0], (bottom - top) / size[1]
    view = View(
        left - offset[0] * step_x,
        top - offset[1] * step_y,
        canvas_size[0] * step_x,
        canvas_size[1] * step_y,
    )
    return np.repeat(brightened[:, :, None], rule.channels, axis=2), view


def _resize(
    image: Image.Image | Strips, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    if isinstance(image, Strips):
        return image.resize(size, box)
    return image.resize(size, Image.Resampling.BICUBIC, box=box, reducing_gap=REDUCING_GAP)


def _centre_of_mass(grey_hw: NDArray[np.uint8]) -> tuple[float, float]:
    """Return the centre of mass (x, y) of the grey levels, in pixels from the upper left corner."""
    # Integers are summed exactly, and faster than floating-point numbers.
    columns = grey_hw.sum(0, dtype=np.uint64).astype(np.float64)
    rows = grey_hw.sum(1, dtype=np.uint64).astype(np.float64)
    mass = columns.sum() or 1.0
    x = (columns @ (np.arange(len(columns)) + 0.5)) / mass
    y = (rows @ (np.arange(len(rows)) + 0.5)) / mass
    return float(x), float(y)


def border_median(image: Image.Image | Strips) -> float:
    """Return the median grey level of the outermost ring of pixels."""
    width, height = image.size
    strips = [(0, 0, width, 1), (0, height - 1, width, height)]
    strips += [(0, 0, 1, height), (width - 1, 0, width, height)]
    crops = [image.crop(strip) for strip in strips]
    levels = b"".join((crop if crop.mode == "L" else crop.convert("L")).tobytes() for crop in crops)
    half = len(levels) // 2  # the number of levels is even, because the corners count twice
    middle = np.partition(np.frombuffer(levels, np.uint8), (half - 1, half))[half - 1 : half + 1]
    return float(middle.mean())


def _brightest(grey: Image.Image | Strips) -> float:
    extrema = grey.getextrema()
    return float(extrema[1]) if isinstance(extrema[1], (int, float)) else 0.0
