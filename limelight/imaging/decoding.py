"""Decoding of uploads to upright images.

Plain PNG files bypass Pillow's file parser (`limelight.imaging.fast_png`), which takes longer than
decoding a small image. The header of all other files is read first (`limelight.imaging.headers`),
so that a file that would take too much memory or time never reaches a decoder.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image

from limelight.errors import UndecodableImage
from limelight.imaging import fast_png, reduced_webp, transparency
from limelight.imaging.formats import chosen, register_decoders
from limelight.imaging.headers.header import Header
from limelight.imaging.headers.inspection import inspect
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.opening import open_checked
from limelight.imaging.orientation import UPRIGHT, orientation_in, orientation_of
from limelight.imaging.own_file_formats import decode_own
from limelight.imaging.strips import WHOLE_PIXELS, Box, Strips

register_decoders()

# Pillow warns about unreadable metadata, which is not used here.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\..*")

# A JPEG or WebP may be decoded at 1/2, 1/4 or 1/8 of its size, as long as the result has at least
# this many times the input's size. Resizing then still averages over pixels. Ink needs more,
# because it may be a small part of the image.
_OVERSAMPLING = {"crop": 2, "ink": 16}
_MODES = frozenset(("L", "LA", "RGB", "RGBA"))


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """Decoded image. Its pixels are turned upright and converted to 8 bits when they are read."""

    source: Image.Image
    """Pixels as they were decoded, in any mode."""
    full_size: tuple[int, int]
    """Width and height of the upright upload, of which `source` may be a reduced copy."""
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the decoded image, upright."""
        width, height = self.source.size
        return (height, width) if self.orientation >= 5 else (width, height)

    @property
    def image(self) -> Image.Image:
        """Whole image: upright, of mode L, LA, RGB or RGBA."""
        whole = plain(self.source)
        return whole.transpose(UPRIGHT[self.orientation]) if self.orientation != 1 else whole

    def pixels(self) -> Image.Image | Strips:
        """Return the image as `image` does, or in strips if a copy of it would be large."""
        width, height = self.size
        if width * height <= WHOLE_PIXELS:
            return self.image
        return Strips(self.size, self._read((0, 0, 1, 1)).mode, self._read)

    def reduced(self, most_pixels: int | None) -> Image.Image:
        """Return the image, reduced by whole factors to at most `most_pixels`; None: as it is."""
        width, height = self.size
        if most_pixels is None or width * height <= most_pixels:
            return self.image
        factor = 1
        while -(-width // factor) * -(-height // factor) > most_pixels and factor < height:
            factor += 1
        columns = max(1, most_pixels // -(-height // factor))
        whole = self.pixels()
        return whole.reduce((max(factor, -(-width // columns)), factor))

    def _read(self, box: Box) -> Image.Image:
        strip = plain(self.source.crop(_in_source(box, self.source.size, self.orientation)))
        return strip.transpose(UPRIGHT[self.orientation]) if self.orientation != 1 else strip


def decode(
    body: bytes,
    *,
    max_pixels: int,
    sketch_for: ImageRule | None = None,
    own_file: bool = False,
) -> DecodedImage:
    """Decode the first frame of an upload; with `own_file`, of a file of the caller's own.

    With `sketch_for`, an image much larger than that rule's input may be decoded at a reduced size,
    which is several times faster.

    Raises:
        UnsupportedMediaType: the bytes are not of an accepted format.
        ImageTooLarge: width x height in the header exceeds `max_pixels`; nothing was decoded.
        ImageTooComplex: the file has too many parts, or decoding it would take too long.
        UndecodableImage: the format is accepted, but the file is truncated or damaged.
    """
    image = fast_png.decode(body, max_pixels=max_pixels)
    if image is not None:
        return DecodedImage(image, image.size)
    return decode_with_pillow(body, max_pixels=max_pixels, sketch_for=sketch_for, own_file=own_file)


def decode_with_pillow(
    body: bytes,
    *,
    max_pixels: int,
    sketch_for: ImageRule | None = None,
    own_file: bool = False,
) -> DecodedImage:
    """Decode any file without the fast path; the result is that of `decode`."""
    header = inspect(body, max_pixels=max_pixels, own_file=own_file)
    return decode_at(header, body, scale=header.scale_for(least_size(sketch_for)))


def decode_at(header: Header, body: bytes, *, scale: int) -> DecodedImage:
    """Decode a file whose header was read, reduced by a scale that the header allows.

    Raises:
        UndecodableImage: the file is truncated or damaged.
    """
    if header.own_format:
        image, orientation = decode_own(header)
        return _turned(image, image.size, orientation)
    if body.startswith(fast_png.SIGNATURE) and not fast_png.is_whole(body):
        raise UndecodableImage("the image is truncated or damaged: send the whole file")
    try:
        if header.decodes_webp:
            size = header.width, header.height
            image = reduced_webp.decode(header.body, size, has_alpha=header.has_alpha, scale=scale)
        elif header.jpeg_mode:
            image = _decode_jpeg(header, scale)
        else:
            names = tuple(name for name, _ in chosen())
            image = open_checked(header.body, names)
            transparency.load(image, header.body)
            if image.mode not in _MODES or "transparency" in image.info:
                plain(image.crop((0, 0, 1, 1)))  # a forged file may contradict its pixels' mode
    except Exception as error:  # OSError, SyntaxError, ValueError, struct.error, ...
        raise UndecodableImage("the image is truncated or damaged: send the whole file") from error
    if header.exif or header.xmp:
        orientation = orientation_of(header.exif, header.xmp)
    else:
        orientation = orientation_in(image.info)
    return _turned(image, (header.width, header.height), orientation)


def _turned(image: Image.Image, full_size: tuple[int, int], orientation: int) -> DecodedImage:
    """Return the image; `full_size` is that before it is turned upright."""
    return DecodedImage(image, full_size[::-1] if orientation >= 5 else full_size, orientation)


def _decode_jpeg(header: Header, scale: int) -> Image.Image:
    """Decode a JPEG with Pillow's decoder, but without Pillow's file parser.

    The parser reads all metadata, of any size, in an interpreted loop.
    """
    size = -(-header.width // scale), -(-header.height // scale)
    mode = header.jpeg_mode
    # Pillow assumes Adobe's convention too: CMYK is inverted.
    raw_mode = "CMYK;I" if mode == "CMYK" else mode
    return Image.frombytes(mode, size, header.body, "jpeg", raw_mode, "", scale, 0)


def plain(image: Image.Image) -> Image.Image:
    """Convert any mode to L, LA, RGB or RGBA: 8 bits a channel, transparency as alpha channel."""
    if image.mode in _MODES and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bits(image)
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L", "F") else "RGB")


def least_size(sketch_for: ImageRule | None) -> tuple[int, int] | None:
    """Return the least size at which an image may be decoded for a rule; None: its full size."""
    if sketch_for is None:
        return None
    factor = _OVERSAMPLING[sketch_for.fit]
    return sketch_for.width * factor, sketch_for.height * factor


def _in_source(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Return the box of an image of `size` that a box of the upright image shows."""
    left, top, right, bottom = box
    if orientation >= 5:
        left, top, right, bottom = top, left, bottom, right
    width, height = size
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def _from_16_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    if levels.dtype.itemsize != 2:
        levels = levels.clip(0, 65535)
    # The same as (level + 128) // 257, for every level, and faster.
    rounded = (levels.astype(np.uint32) * np.uint32(255) + np.uint32(32895)) >> np.uint32(16)
    grey = Image.fromarray(rounded.astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        alpha = Image.fromarray((levels != transparent).astype(np.uint8) * np.uint8(255))
        grey = Image.merge("LA", (grey, alpha))
    grey.info = {key: value for key, value in image.info.items() if key != "transparency"}
    return grey
