"""Transparency that Pillow does not read as browsers do: PNG's transparent colour, BMP's alpha."""

import numpy as np
from PIL import Image, PngImagePlugin

from limelight.imaging.opening import open_checked
from limelight.imaging.strips import STRIP_PIXELS

# Factor by which Pillow widens samples of 2 and 4 bits, by the decoder's raw mode.
_WIDENED = {"L;2": (3, 85), "L;4": (15, 17)}
_HIGH_BYTES, _LOW_BYTES = "RGB;16B", "RGB;16L"


def load(image: Image.Image, body: bytes) -> None:
    """Decode the pixels of an opened file, in place; `body` are its bytes."""
    if not isinstance(image, PngImagePlugin.PngImageFile) or "transparency" not in image.info:
        image.load()
        if has_unused_alpha(image):
            image.putalpha(255)
        return
    raw_mode = str(image.tile[0].args)
    colour = image.info["transparency"]
    if raw_mode == _HIGH_BYTES:
        _load_16_bits(image, body, colour)
        return
    image.load()
    if raw_mode in _WIDENED:
        mask, factor = _WIDENED[raw_mode]
        image.info["transparency"] = (colour & mask) * factor


def has_unused_alpha(image: Image.Image) -> bool:
    """Return whether the alpha channel of a BMP is all zero: its writer left it unused."""
    is_candidate = image.format == "BMP" and image.mode == "RGBA"
    return is_candidate and image.getbbox(alpha_only=True) is None


def _load_16_bits(image: Image.Image, body: bytes, colour: tuple[int, int, int]) -> None:
    """Decode an RGB image of 16 bits a channel to RGBA.

    Pillow keeps the high byte of each sample, and the transparent colour has both. So the file is
    decoded twice, and the first result is dropped: together they would take too much memory.
    """
    low_rgb = open_checked(body, ("PNG",))
    low_rgb.tile = [tile._replace(args=_LOW_BYTES) for tile in low_rgb.tile]
    low_rgb.load()
    transparent_hw = np.ones(image.size[::-1], bool)
    _compare(low_rgb, [value & 0xFF for value in colour], transparent_hw)
    low_rgb.close()
    del low_rgb
    image.load()
    _compare(image, [value >> 8 for value in colour], transparent_hw)
    del image.info["transparency"]
    alpha_hw = np.logical_not(transparent_hw, out=transparent_hw).view(np.uint8)
    alpha_hw *= 255
    image.putalpha(Image.fromarray(alpha_hw))


def _compare(image: Image.Image, colour: list[int], equal_hw: np.ndarray) -> None:
    """Clear the entries of `equal_hw` whose pixel has another colour."""
    rows = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        for channel_hw, value in zip(strip.split(), colour, strict=True):
            equal_hw[top : top + rows] &= np.asarray(channel_hw) == value
