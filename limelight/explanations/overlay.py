"""Overlay of a class activation map on its upload."""

import math
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.imaging.preprocessing import View, flatten
from limelight.imaging.strips import WHOLE_PIXELS

# Seventeen colours of each published colormap. The colours between are interpolated, and differ
# from the published ones by at most 7 of 255 levels.
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
"""Colormaps as Pillow palettes: red, green and blue of 256 levels."""


def overlay(
    image: Image.Image,
    cam_hw: NDArray[np.floating[Any]],
    view: View,
    *,
    opacity: float,
    colormap: str,
) -> Image.Image:
    """Blend a map over the upload: RGB, of the upload's size.

    Parts that the network does not see are left unchanged. The colours range from 0 to the map's
    peak; if the peak is not positive, from the map's minimum to its peak. `opacity` is from 0 to 1,
    `colormap` one of `COLORMAPS`.
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
    levels = Image.fromarray(_levels(cam_hw))
    cell_height = (cells[3] - cells[1]) / (bottom - top)
    step = max(1, WHOLE_PIXELS // (right - left))
    for start in range(top, bottom, step):
        place = (left, start, right, min(start + step, bottom))
        rows = (cells[1] + (start - top) * cell_height, cells[1] + (place[3] - top) * cell_height)
        tint = levels.resize(
            (right - left, place[3] - start),
            Image.Resampling.BILINEAR,
            box=(cells[0], rows[0], cells[2], min(rows[1], cells[3])),
        )
        # The levels are palette indices, so that Pillow looks the colours up in C.
        tint = tint.convert("L")
        tint.putpalette(COLORMAPS[colormap])
        photo.paste(Image.blend(photo.crop(place), tint.convert("RGB"), opacity), place)
    return photo


def png(image: Image.Image) -> bytes:
    """Encode as PNG at zlib's lowest level, which takes a third of the default's time."""
    stream = BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def _levels(cam_hw: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Scale a map to palette indices from 0 to 255, not yet rounded."""
    peak = float(cam_hw.max())
    least = 0.0 if peak > 0 else float(cam_hw.min())
    span = peak - least or 1.0
    return ((cam_hw - least) * (255 / span)).clip(0, 255).astype(np.float32)


def _pixels(start: float, extent: float, size: int) -> tuple[int, int]:
    """Return the range of pixels, clipped to `size`, with centres in [start, start + extent)."""
    return max(0, math.ceil(start - 0.5)), min(size, math.ceil(start + extent - 0.5))
