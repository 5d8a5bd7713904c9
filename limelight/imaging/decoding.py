"""From the bytes of an upload to an upright image.

Plain PNG files skip Pillow's reading of the file (`limelight.imaging.png`), which takes longer
than decoding a small image. Everything else goes through `Image.open`.
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

# Pillow's own limit warns at a fixed size. Ours is a setting, and `decode` holds every upload
# to it before a pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# It also warns of metadata that it cannot read, which nobody here asked for.
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

# A JPEG may be decoded smaller, at 1/2, 1/4 or 1/8, as long as this many times the input's size
# is left. The second step then still averages over pixels; ink has to be found first, and may
# be a small part of the picture.
_SPARE_PIXELS = {"crop": 2, "ink": 16}


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """An upright image of mode L, LA, RGB or RGBA."""

    image: Image.Image
    full_size: tuple[int, int]
    """Width and height of the upload, of which `image` may be a reduced copy."""


def decode(body: bytes, *, max_pixels: int, sketch_for: ImageRule | None = None) -> DecodedImage:
    """Decode an upload: upright, its first frame.

    With `sketch_for`, a JPEG much larger than that rule's input may come back reduced, which is
    several times faster.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format.
        ImageTooLarge: width x height in the header exceeds `max_pixels`; nothing was decoded.
        UndecodableImage: of an accepted format, but truncated or broken.
    """
    image = png.decode(body, max_pixels=max_pixels)
    if image is not None:
        return DecodedImage(image, image.size)
    return decode_with_pillow(body, max_pixels=max_pixels, sketch_for=sketch_for)


def decode_with_pillow(
    body: bytes, *, max_pixels: int, sketch_for: ImageRule | None = None
) -> DecodedImage:
    """`decode` with Pillow's own reading of the file: the same result, for any file."""
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
    """Any mode as L, LA, RGB or RGBA, with 16 bits brought to 8 and every alpha an own channel."""
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.mode in ("L", "LA", "RGB", "RGBA") and "transparency" not in image.info:
        return image
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L", "F") else "RGB")


def _open(body: bytes) -> Image.Image:
    """Format and size are known then, and nothing is decoded yet."""
    try:
        return Image.open(BytesIO(body), formats=tuple(FORMATS))
    except UnidentifiedImageError as error:
        if has_signature(body):
            raise UndecodableImage("the image is damaged, or cut off in its header") from error
        raise UnsupportedMediaType(f"the body is not a {accepted()} image") from error
    except Exception as error:  # Pillow's parsers raise nearly anything on a forged header
        raise UndecodableImage("the image's header is damaged") from error


def _least_size(sketch_for: ImageRule) -> tuple[int, int]:
    spare = _SPARE_PIXELS[sketch_for.fit]
    return sketch_for.width * spare, sketch_for.height * spare


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 where the metadata is absent or broken."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # metadata never costs a picture that decodes
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
