"""What a class activation map says about the upload: a box in its pixels, and a picture of it.

A map of h by w cells covers the network's input, whose place in the upload is a `View`.
"""

import functools
import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from service.images import View, flatten
from service.interpolation import bilinear

# Seventeen colours of each published table; what lies between is interpolated, and at most 7 of
# 255 levels away from the table.
_ANCHORS = {
    "turbo": "30123b 4040a2 466be3 4294ff 28bceb 18ddc2 32f298 6dfe62 a4fc3c cbed34 ecd13a fdae35 "
    "fb8122 ec530f d23105 ac1701 7a0403",
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1f9f88 27ad81 "
    "3dbc74 5cc863 81d34d aadc32 d5e21a fde725",
    "inferno": "000004 0b0724 210c4a 3d0965 57106e 71196e 8a226a a32c61 bc3754 d04545 e35933 "
    "f1711f f98c0a fcaa0f f9c932 f2e865 fcffa4",
    "magma": "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 cf4070 e55064 "
    "f4695c fb8761 fea571 fec287 fde0a1 fcfdbf",
    "jet": "000080 0000c0 0000ff 0040ff 0080ff 00c0ff 00ffff 40ffbf 80ff80 bfff40 ffff00 ffc000 "
    "ff8000 ff4000 ff0000 c00000 800000",
}


def _palette(anchors: str) -> list[int]:
    colours = np.array([list(bytes.fromhex(colour)) for colour in anchors.split()])
    places = np.linspace(0, 255, len(colours))
    channels = [np.interp(np.arange(256), places, colours[:, i]) for i in range(3)]
    return [int(level) for level in np.rint(np.stack(channels, axis=1)).ravel()]


COLORMAPS = {name: _palette(anchors) for name, anchors in _ANCHORS.items()}
"""Red, green and blue of 256 levels, as Pillow's palettes take them."""

# Positions that a box is measured at, per cell of the map: odd, so that the peak is one of them.
_FINER = 15
_BOX_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upload, edges counted from 0."""

    left: float
    top: float
    right: float
    bottom: float


def bounding_box(cam_hw: NDArray[np.float32], view: View, upload: tuple[int, int]) -> Box:
    """The smallest rectangle of the upload that holds the values over half of the map's peak.

    The map is interpolated bilinearly between the centres of its cells and clipped to the upload
    (width, height). A map whose peak is not positive supports its class nowhere: "over half of
    the peak" then means the upper half of its range. A constant map gives all that is seen.
    """
    width, height = upload
    rows, columns = cam_hw.shape
    # Only what lies in the upload counts: the peak of a map over padding is nobody's box.
    x0, x1 = _inside(view.left, view.width, columns * _FINER, width)
    y0, y1 = _inside(view.top, view.height, rows * _FINER, height)
    # Between the centres of cells the map is linear in each direction, so its extremes along a
    # row or column are at centres, or where the upload ends: no other position is computed.
    every_y, turns_y = _interpolations(rows, y0, y1)
    every_x, turns_x = _interpolations(columns, x0, x1)
    along_x = turns_y @ cam_hw @ every_x.T
    along_y = every_y @ cam_hw @ turns_x.T
    highest_by_column: list[float] = along_x.max(0).tolist()
    highest_by_row: list[float] = along_y.max(1).tolist()
    peak = max(highest_by_column)
    if peak > 0:
        threshold = peak * _BOX_SHARE
    else:
        least = float(along_x.min())
        threshold = least + (peak - least) * (1 - _BOX_SHARE)
    first_column, last_column = _span(highest_by_column, threshold)
    first_row, last_row = _span(highest_by_row, threshold)
    step_x, step_y = view.width / (columns * _FINER), view.height / (rows * _FINER)
    return Box(
        left=_within(view.left + (x0 + first_column) * step_x, width),
        top=_within(view.top + (y0 + first_row) * step_y, height),
        right=_within(view.left + (x0 + last_column + 1) * step_x, width),
        bottom=_within(view.top + (y0 + last_row + 1) * step_y, height),
    )


def overlay(
    image: Image.Image,
    cam_hw: NDArray[np.floating[Any]],
    view: View,
    *,
    opacity: float,
    colormap: str,
) -> Image.Image:
    """Lay a map over the upload: RGB, of the upload's size. What the network cannot see stays.

    The colours go from 0 to the map's peak; from its least value where the peak is not positive.
    `opacity` is 0 to 1, `colormap` one of `COLORMAPS`.
    """
    photo = flatten(image, 255).convert("RGB")
    left, right = _pixels(view.left, view.width, photo.width)
    top, bottom = _pixels(view.top, view.height, photo.height)
    if right <= left or bottom <= top:
        return photo
    rows, columns = cam_hw.shape
    cells = (
        max(0.0, (left - view.left) / view.width * columns),
        max(0.0, (top - view.top) / view.height * rows),
        min(float(columns), (right - view.left) / view.width * columns),
        min(float(rows), (bottom - view.top) / view.height * rows),
    )
    tint = Image.fromarray(_levels(cam_hw)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, box=cells
    )
    # The levels are the palette's indices; Pillow looks the colours up in C.
    tint = tint.convert("L")
    tint.putpalette(COLORMAPS[colormap])
    place = (left, top, right, bottom)
    photo.paste(Image.blend(photo.crop(place), tint.convert("RGB"), opacity), place)
    return photo


def png(image: Image.Image) -> bytes:
    """Encode for a quick answer: zlib's lowest level costs a third of its default's time."""
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _levels(cam_hw: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Palette indices, 0 to 255, before they are rounded."""
    peak = float(cam_hw.max())
    least = 0.0 if peak > 0 else float(cam_hw.min())
    span = peak - least or 1.0
    return ((cam_hw - least) * (255 / span)).clip(0, 255).astype(np.float32)


def _pixels(start: float, extent: float, size: int) -> tuple[int, int]:
    """The pixels of 0 to `size` whose centres lie in [start, start + extent)."""
    return max(0, math.ceil(start - 0.5)), min(size, math.ceil(start + extent - 0.5))


def _inside(start: float, extent: float, count: int, size: int) -> tuple[int, int]:
    """Of `count` positions spread over [start, start + extent): those that lie in [0, size)."""
    step = extent / count
    first = max(0, math.ceil(-start / step - 0.5))
    last = min(count, math.ceil((size - start) / step - 0.5))
    if first < last:
        return first, last
    nearest = min(max(int((size / 2 - start) / step), 0), count - 1)
    return nearest, nearest + 1


@functools.lru_cache(maxsize=1024)
def _interpolations(
    cells: int, first: int, last: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rows of `bilinear`: those from `first` to before `last`, and those where it turns.

    It turns at the centres of cells; both ends count as well.
    """
    weights = bilinear(cells, cells * _FINER)
    centres = (at for at in range(_FINER // 2, last, _FINER) if at >= first)
    return weights[first:last], weights[sorted({first, last - 1, *centres})]


def _span(highest: list[float], threshold: float) -> tuple[int, int]:
    """The first and the last position over `threshold`; of a constant map, all.

    In Python: a hundred numbers are looked through before numpy has started.
    """
    peak = max(highest)
    threshold = threshold if peak > threshold else math.nextafter(peak, -math.inf)
    first = next(at for at, value in enumerate(highest) if value > threshold)
    last = next(at for at in range(len(highest) - 1, -1, -1) if highest[at] > threshold)
    return first, last


def _within(value: float, size: int) -> float:
    return round(min(max(value, 0.0), float(size)), 2)
