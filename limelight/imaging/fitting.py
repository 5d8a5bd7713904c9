"""Which part of an upload the network sees, and how it is brought to the network's input."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.artifact.manifest import ImageRule

# MNIST's layout: the ink's longest side is 20 of 28 pixels.
_INK_SHARE = 20 / 28
# Its centre of mass is in pixel 14, counted from 0: over the training images it is (14.51, 14.50)
# from the edges, with a deviation of 0.29, which is that of rounding to whole pixels. This figure
# and the next constant's: `python -m bench.ink_layout`.
_MIDDLE = 0.5
# Ink is placed on a canvas this many times finer than the input, then averaged down to it.
_FINER = 8
# Share of the strongest ink that still counts as ink, when its bounding box is drawn: of 0.1 to
# 0.5, the one that brings enlarged training digits back closest to themselves (6.4 grey levels).
_INK_THRESHOLD = 0.35
# Grey levels between background and ink below which an image is taken for blank.
_LEAST_CONTRAST = 16


@dataclass(frozen=True, slots=True)
class View:
    """The rectangle of the upload, in its pixels, that the network's input covers.

    It may reach outside the upload. Position (x, y) of an input of w by h pixels is the upload's
    (left + x * width / w, top + y * height / h), edges counted from 0.
    """

    left: float
    top: float
    width: float
    height: float

    def scaled(self, x: float, y: float) -> "View":
        """The same rectangle of an upload that is `x` times as wide and `y` times as high."""
        return View(self.left * x, self.top * y, self.width * x, self.height * y)


def fit_crop(image: Image.Image, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """The largest centred rectangle of the input's proportions."""
    scale = min(image.width / rule.width, image.height / rule.height)
    width = min(rule.width * scale, float(image.width))
    height = min(rule.height * scale, float(image.height))
    left, top = (image.width - width) / 2, (image.height - height) / 2
    resized = image.resize(
        (rule.width, rule.height),
        Image.Resampling.BICUBIC,
        box=(left, top, left + width, top + height),
        reducing_gap=3.0,
    )
    return np.array(resized), View(left, top, width, height)


def fit_ink(image: Image.Image, rule: ImageRule) -> tuple[NDArray[np.uint8], View]:
    """Ink alone, stretched to full range and laid out as in MNIST; colour becomes grey.

    Sizes stay bounded whatever the upload's proportions are: the ink is first brought to the
    canvas, which is `_FINER` times the input, and only then averaged.
    """
    grey = image if image.mode == "L" else image.convert("L")
    background = border_median(grey)
    contrast = _brightest(grey) - background
    if contrast < _LEAST_CONTRAST:
        return fit_crop(image, rule)
    above = np.maximum(np.arange(256) - background, 0)
    stretched = np.rint(255 * np.minimum(above / contrast, 1)).astype(np.uint8)
    ink = grey.point(stretched.tolist())
    threshold = round(255 * _INK_THRESHOLD)
    bounds = ink.point([0] * threshold + [255] * (256 - threshold)).getbbox()
    if bounds is None:  # never: the brightest pixel is 255
        return fit_crop(image, rule)
    left, top, right, bottom = bounds

    canvas_size = (rule.width * _FINER, rule.height * _FINER)
    scale = min(canvas_size) * _INK_SHARE / max(right - left, bottom - top)
    size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
    drawn = ink.resize(size, Image.Resampling.BICUBIC, box=bounds, reducing_gap=3.0)
    centre_x, centre_y = _centre_of_mass(np.asarray(drawn))
    # In whole pixels of the input, so that straight edges stay as sharp as MNIST's are.
    offset_x = round(rule.width // 2 + _MIDDLE - centre_x / _FINER) * _FINER
    offset_y = round(rule.height // 2 + _MIDDLE - centre_y / _FINER) * _FINER
    offset = offset_x, offset_y
    canvas = Image.new("L", canvas_size)
    canvas.paste(drawn, offset)

    pixels = np.asarray(canvas.reduce(_FINER), np.float64)
    brightened = np.rint(pixels * (255 / max(pixels.max(), 1.0))).astype(np.uint8)
    # Upload pixels a canvas pixel covers; the two differ by the rounding of `size` only.
    step_x, step_y = (right - left) / size[0], (bottom - top) / size[1]
    view = View(
        left - offset[0] * step_x,
        top - offset[1] * step_y,
        canvas_size[0] * step_x,
        canvas_size[1] * step_y,
    )
    return np.repeat(brightened[:, :, None], rule.channels, axis=2), view


def _centre_of_mass(grey_hw: NDArray[np.uint8]) -> tuple[float, float]:
    """Of the grey levels, from the left and upper edge, in pixels."""
    # Whole numbers are added up exactly, and faster before they become floating point.
    columns = grey_hw.sum(0, dtype=np.uint64).astype(np.float64)
    rows = grey_hw.sum(1, dtype=np.uint64).astype(np.float64)
    mass = columns.sum() or 1.0
    x = (columns @ (np.arange(len(columns)) + 0.5)) / mass
    y = (rows @ (np.arange(len(rows)) + 0.5)) / mass
    return float(x), float(y)


def border_median(image: Image.Image) -> float:
    """Median grey level of the outermost ring of pixels."""
    width, height = image.size
    strips = [(0, 0, width, 1), (0, height - 1, width, height)]
    strips += [(0, 0, 1, height), (width - 1, 0, width, height)]
    crops = [image.crop(strip) for strip in strips]
    levels = b"".join((crop if crop.mode == "L" else crop.convert("L")).tobytes() for crop in crops)
    half = len(levels) // 2  # of an even number: the corners count twice
    middle = np.partition(np.frombuffer(levels, np.uint8), (half - 1, half))[half - 1 : half + 1]
    return float(middle.mean())


def _brightest(grey: Image.Image) -> float:
    extrema = grey.getextrema()
    return float(extrema[1]) if isinstance(extrema[1], (int, float)) else 0.0
