"""Formats that are read from files of the caller's own only: TIFF, AVIF and HEIC.

What their decoders take cannot be told from the header, so the service does not accept them.
"""

from collections.abc import Mapping
from importlib import import_module

import numpy as np
from PIL import Image, features

from limelight.errors import UndecodableImage, UnsupportedMediaType
from limelight.imaging.formats import FORMATS, ImageFormat
from limelight.imaging.headers.header import Header
from limelight.imaging.opening import open_checked
from limelight.imaging.orientation import orientation_of

# The others have no known range, as floating-point numbers, or no known conversion to RGB.
_MODES = frozenset(
    ("1", "L", "LA", "P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "I;16", "I;16B")
)
# More than any of the decoders takes.
_PIXEL_BYTES = 20
# Fields of TIFF.
_BITS, _PHOTOMETRIC, _TILE_WIDTH, _TILE_HEIGHT = 258, 262, 322, 323
_WHITE_IS_ZERO = 0
# libtiff allocates a whole tile, whatever the size of the image.
_MOST_TILE_PIXELS = 1 << 24


def missing_decoder(image_format: ImageFormat) -> str:
    """Return the command that installs the decoder of a format; empty: it is installed."""
    try:
        import_module(image_format.plugin)
    except ImportError:
        return image_format.install
    present = image_format.feature is None or features.check(image_format.feature)
    return "" if present else image_format.install


def read_own(name: str, image_format: ImageFormat, body: bytes) -> Header:
    """Read the size of an image whose format Pillow calls `name`; the cost is not estimated.

    Raises:
        UnsupportedMediaType: the decoder is not installed.
        UndecodableImage: the file is damaged, or of a kind that is not read.
    """
    install = missing_decoder(image_format)
    if install:
        raise UnsupportedMediaType(
            f"the decoder of {image_format.title} images is not installed: {install}"
        )
    image = _opened(name, body)
    return Header(
        width=image.width,
        height=image.height,
        pixel_bytes=_PIXEL_BYTES,
        decoding_s=0,
        body=body,
        own_format=name,
    )


def decode_own(header: Header) -> tuple[Image.Image, int]:
    """Decode the first image of a file; return it with the orientation that is left to apply.

    Raises:
        UndecodableImage: the file is truncated, damaged, or of a kind that is not read.
    """
    image = _opened(header.own_format, header.body)
    inverted = image.mode.startswith("I;16") and _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO
    try:
        image.load()
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ...
        raise _undecodable(header.own_format) from error
    # The decoders of TIFF and HEIC turn the image upright. That of AVIF leaves it as it is, and
    # sets the orientation in the EXIF data to that of the file's own fields, which are valid.
    exif = image.info.get("exif", b"") if header.own_format == "AVIF" else b""
    if inverted:
        image = Image.fromarray(np.uint16(65535) - np.asarray(image).astype(np.uint16))
    return image, orientation_of(exif)


def _opened(name: str, body: bytes) -> Image.Image:
    try:
        image = open_checked(body, (name,))
    except Exception as error:  # Pillow raises exceptions of many types on a forged header
        raise _undecodable(name) from error
    tile = _tag(image, _TILE_WIDTH), _tag(image, _TILE_HEIGHT)
    if tile != (None, None) and not _is_usual(tile, image.width * image.height):
        raise _undecodable(name)
    bits = _tag(image, _BITS)
    if image.mode not in _MODES or (image.mode.startswith("I;16") and bits not in (None, (16,))):
        raise UndecodableImage(
            f"the {FORMATS[name].title} image has pixels of a kind that is not read "
            f"({image.mode}): save it again with 8 or 16 bits a channel"
        )
    return image


def _is_usual(tile: tuple[object, object], pixels: int) -> bool:
    """Tell whether a tile is about as small as an image of that many pixels, or smaller."""
    width, height = tile
    if not (isinstance(width, int) and isinstance(height, int)):
        return False
    return width * height <= max(pixels, _MOST_TILE_PIXELS)


def _tag(image: Image.Image, number: int) -> object:
    """Return the value of a TIFF's field; None if there is none."""
    # Not by the class: its module stays unloaded where there is no TIFF, as in the service.
    fields: Mapping[int, object] = getattr(image, "tag_v2", {})
    return fields.get(number)


def _undecodable(name: str) -> UndecodableImage:
    return UndecodableImage(
        f"the {FORMATS[name].title} image is truncated or damaged, or of a kind that is not read: "
        "save it again, for example as PNG"
    )
