"""Decoding of uploads to upright images.

Plain PNG files bypass Pillow's file parser (`limelight.imaging.png`), which takes longer than
decoding a small image. All other files go through `Image.open`.
"""

import warnings
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, JpegImagePlugin, UnidentifiedImageError

from limelight.artifact.manifest import ImageRule
from limelight.errors import ImageTooLarge, UndecodableImage, UnsupportedMediaType
from limelight.imaging import png
from limelight.imaging.formats import FORMATS, accepted, has_signature, register_decoders

register_decoders()

# Pillow's own limit warns at a fixed size. `decode` checks a configurable limit instead, before
# any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# Pillow also warns about unreadable metadata, which is not used here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as the result has at least this many
# times the input's size. Resizing then still averages over pixels. Ink needs more, because it may
# be a small part of the image.
_OVERSAMPLING = {"crop": 2, "ink": 16}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Decoded image: upright, of mode L, LA, RGB or RGBA."""

    image: Image.Image
    full_size: tuple[int, int]
    """Width and height of the upload, of which `image` may be a reduced copy."""


def decode(body: bytes, *, max_pixels: int, sketch_for: ImageRule | None = None) -> DecodedImage:
    """Decode the first frame of an upload, upright.

    With `sketch_for`, a JPEG much larger than that rule's input may be decoded at a reduced size,
    which is several times faster.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format.
        ImageTooLarge: width x height in the header exceeds `max_pixels`; nothing was decoded.
        UndecodableImage: the format is accepted, but the file is truncated or damaged.
    """
    image = png.decode(body, max_pixels=max_pixels)
    if image is not None:
        return DecodedImage(image, image.size)
    return decode_with_pillow(body, max_pixels=max_pixels, sketch_for=sketch_for)


def decode_with_pillow(
    body: bytes, *, max_pixels: int, sketch_for: ImageRule | None = None
) -> DecodedImage:
    """Decode any file with Pillow's file parser; the result is that of `decode`."""
    image = _open(body)
    if image.width * image.height > max_pixels:
        raise ImageTooLarge(
            f"the image has {image.width} x {image.height} pixels, more than {max_pixels} in "
            "all: send a smaller one"
        )
    if body.startswith(png.SIGNATURE) and not png.is_whole(body):
        raise UndecodableImage("the image is truncated or damaged: send the whole file")
    width, height = image.size
    try:
        if isinstance(image, JpegImagePlugin.JpegImageFile) and sketch_for is not None:
            image.draft(None, _least_size(sketch_for))
        image.load()
        orientation = _orientation(image)
        image = plain(image)
        if orientation in _UPRIGHT:
            image = image.transpose(_UPRIGHT[orientation])
            if orientation >= 5:
                width, height = height, width
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ...
        raise UndecodableImage("the image is truncated or damaged: send the whole file") from error
    return DecodedImage(image, (width, height))


def plain(image: Image.Image) -> Image.Image:
    """Convert any mode to L, LA, RGB or RGBA: 8 bits a channel, transparency as alpha channel."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L", "F") else "RGB")


def _open(body: bytes) -> Image.Image:
    """Read the header, which has the format and the size; nothing is decoded yet."""
    try:
        return Image.open(BytesIO(body), formats=tuple(FORMATS))
    except UnidentifiedImageError as error:
        if has_signature(body):
            raise UndecodableImage("the image is damaged, or cut off in its header") from error
        raise UnsupportedMediaType(f"the body is not a {accepted()} image") from error
    except Exception as error:  # Pillow raises exceptions of many types on a forged header
        raise UndecodableImage("the image's header is damaged") from error


def _least_size(sketch_for: ImageRule) -> tuple[int, int]:
    factor = _OVERSAMPLING[sketch_for.fit]
    return sketch_for.width * factor, sketch_for.height * factor


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation, 1 to 8; 1 if the metadata is absent or damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # damaged metadata must not reject an image that can be decoded
        return 1


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.int64).clip(0, 65535)
    grey = Image.fromarray(((levels + 128) // 257).astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, alpha))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey
