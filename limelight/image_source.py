"""Sources of images: encoded bytes, a file, a Pillow image or an array."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from typing_extensions import TypeIs

from limelight.errors import UndecodableImage
from limelight.imaging.decoding import decode, least_size, plain
from limelight.imaging.headers.header import Header
from limelight.imaging.headers.inspection import check_pixels, inspect
from limelight.imaging.image_rule import ImageRule
from limelight.imaging.preprocessing import (
    Upload,
    is_quick,
    picture_of,
    picture_scale_of,
    prepare,
    read_upload,
    read_with_picture,
)
from limelight.imaging.transparency import has_unused_alpha

# Bytes per pixel of a picture that is kept.
_PICTURE_BYTES = 4

Encoded = bytes | bytearray | memoryview
ImageLike = Encoded | str | os.PathLike[str] | Image.Image | NDArray[Any]
"""An encoded image, the path of an image file, a Pillow image, or a uint8 array of shape (H, W),
(H, W, 1), (H, W, 3) or (H, W, 4)."""
_NO_RANGE = ("I", "F")
"""Modes of Pillow whose values may have any range."""


@dataclass(slots=True)
class EncodedImage:
    """Encoded image. It is decoded when it is read, at a reduced size if that suffices."""

    body: bytes
    max_pixels: int
    max_picture_pixels: int | None = None
    """Most pixels of the picture that `read` keeps; None: its full size."""
    own_file: bool = False
    """See `limelight.imaging.headers.inspection.inspect`."""
    _header: Header | None = None

    def header(self) -> Header:
        """Read the header once; see `limelight.imaging.headers.inspection.inspect`."""
        if self._header is None:
            self._header = inspect(self.body, max_pixels=self.max_pixels, own_file=self.own_file)
        return self._header

    def decoded_bytes(self, rule: ImageRule, *, with_picture: bool = False) -> int:
        """Estimate the memory that `read` takes, from above."""
        header = self.header()
        scale = header.scale_for(least_size(rule))
        if not with_picture:
            return header.decoded_bytes(scale)
        scale = min(scale, picture_scale_of(header, self.max_picture_pixels))
        picture_pixels = header.width * header.height
        if self.max_picture_pixels is not None:
            picture_pixels = min(picture_pixels, self.max_picture_pixels)
        return header.decoded_bytes(scale) + picture_pixels * _PICTURE_BYTES

    def is_quick(self, rule: ImageRule) -> bool:
        """See `limelight.imaging.preprocessing.is_quick`."""
        return is_quick(self.body, rule)

    def read(self, rule: ImageRule, *, with_picture: bool = False) -> Upload:
        """Convert the image to the network's input; see `read_upload` and `read_with_picture`."""
        if with_picture:
            return read_with_picture(
                self.body,
                rule,
                max_pixels=self.max_pixels,
                most_pixels=self.max_picture_pixels,
                header=self._header,
                own_file=self.own_file,
            )
        return read_upload(
            self.body,
            rule,
            max_pixels=self.max_pixels,
            header=self._header,
            own_file=self.own_file,
        )

    def picture(self) -> Image.Image:
        """Decode the image upright, at its full size."""
        return decode(self.body, max_pixels=self.max_pixels, own_file=self.own_file).image


@dataclass(frozen=True, slots=True)
class PixelImage:
    """Image that is already decoded."""

    image: Image.Image

    def read(self, rule: ImageRule, *, with_picture: bool = False) -> Upload:
        """Convert the image to the network's input; its picture is the image itself."""
        picture = self.image if with_picture else None
        return Upload(*prepare(self.image, rule), *self.image.size, picture)

    def picture(self) -> Image.Image:
        """Return the image itself."""
        return self.image


def is_one(images: object) -> TypeIs[ImageLike]:
    """Return whether this is a single image; an array of four dimensions is several images.

    Raises:
        TypeError: it is an open file, whose lines would be taken for images.
    """
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    if hasattr(images, "read") and not isinstance(images, os.PathLike):
        raise TypeError("an open file is no image: give its path, or its content, file.read()")
    return isinstance(images, Encoded | str | os.PathLike | Image.Image)


def encoded(image: Encoded | str | os.PathLike[str]) -> bytes:
    """Return the bytes of an encoded image, or of an image file.

    Raises:
        OSError: the file cannot be read.
    """
    return bytes(image) if isinstance(image, Encoded) else Path(image).read_bytes()


def source_of(image: ImageLike, *, max_pixels: int) -> EncodedImage | PixelImage:
    """Wrap an image of any accepted type in a source.

    Raises:
        OSError: the file cannot be read.
        UndecodableImage: the array does not have the shape or type of an image, or the values of
            the Pillow image have no known range.
        ImageTooLarge: a Pillow image or an array has more than `max_pixels` pixels.
        TypeError: the argument is none of the types of `ImageLike`.
    """
    if isinstance(image, Encoded | str | os.PathLike):
        return EncodedImage(encoded(image), max_pixels, own_file=True)
    if isinstance(image, Image.Image):
        check_pixels(*image.size, max_pixels)
        if image.mode in _NO_RANGE:
            raise UndecodableImage(
                f"the values of an image of mode {image.mode} have no known range: scale them to 0 "
                "to 255, and convert it to L"
            )
        upright = ImageOps.exif_transpose(image)
        if has_unused_alpha(image):
            upright.putalpha(255)
        return PixelImage(plain(upright))
    if isinstance(image, np.ndarray):
        picture = _image_of(image)
        check_pixels(*picture.size, max_pixels)
        return PixelImage(picture)
    raise TypeError(f"{type(image).__name__} is no image: give bytes, a path, an image or an array")


def _image_of(pixels: NDArray[Any]) -> Image.Image:
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        raise UndecodableImage(
            f"an array of {pixels.dtype} {pixels.shape} is no image: give uint8, (H, W), (H, W, 3) "
            "or (H, W, 4)"
        )
    return picture_of(pixels.reshape(shape))
