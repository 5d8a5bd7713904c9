"""What a class activation map says about the upload: a box in its pixels, and a picture of it.

A map of h by w cells covers the network's input, whose place in the upload is a `View`.
"""

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.images import View, flatten

# Sixteenths of each colour map, as the published tables have them (matplotlib's BSD/CC0 data;
# turbo is Google's), in between interpolated: off by at most a few levels, which no eye finds.
COLORMAPS: dict[str, tuple[str, ...]] = {}

# Cells of the grid that a box is measured on, per cell of the map.
_FINER = 16
_BOX_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upload, edges counted from 0."""

    left: float
    top: float
    right: float
    bottom: float


def bounding_box(cam_hw: NDArray[np.floating[Any]], view: View, upload: tuple[int, int]) -> Box:
    """The smallest rectangle of the upload that holds the values over half of the map's peak.

    The map is interpolated bilinearly between the centres of its cells and clipped to the upload
    (width, height). A map whose peak is not positive supports its class nowhere: "over half of
    the peak" then means the upper half of its range. A constant map gives all that is seen.
    """
    width, height = upload
    rows, columns = cam_hw.shape
    fine = upsample(cam_hw, rows * _FINER, columns * _FINER)
    # Only what lies in the upload counts: the peak of a map over padding is nobody's box.
    x0, x1 = _inside(view.left, view.width, fine.shape[1], width)
    y0, y1 = _inside(view.top, view.height, fine.shape[0], height)
    seen = fine[y0:y1, x0:x1]
    peak, least = float(seen.max()), float(seen.min())
    threshold = peak * _BOX_SHARE if peak > 0 else least + (peak - least) * (1 - _BOX_SHARE)
    over = seen > threshold if peak > threshold else seen >= peak
    found_rows, found_columns = np.flatnonzero(over.any(1)), np.flatnonzero(over.any(0))
    step_x, step_y = view.width / fine.shape[1], view.height / fine.shape[0]
    return Box(
        left=_within(view.left + (x0 + found_columns[0]) * step_x, width),
        top=_within(view.top + (y0 + found_rows[0]) * step_y, height),
        right=_within(view.left + (x0 + found_columns[-1] + 1) * step_x, width),
        bottom=_within(view.top + (y0 + found_rows[-1] + 1) * step_y, height),
    )


def upsample(
    cam_hw: NDArray[np.floating[Any]], height: int, width: int
) -> NDArray[np.floating[Any]]:
    """Bilinear interpolation between the centres of the cells; constant beyond the outermost."""
    return _interpolation(cam_hw.shape[0], height) @ cam_hw @ _interpolation(cam_hw.shape[1], width).T


