"""Where an image comes from: encoded bytes, a file, a Pillow image or an array."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from typing_extensions import TypeIs

from limelight.artifact.manifest import ImageRule
from limelight.errors import UndecodableImage
from limelight.imaging.decoding import decode, plain
from limelight.imaging.fitting import View
from limelight.imaging.preprocessing import (
    Upload,
    is_quick,
    picture_of,
    prepare,
    read_part,
    read_upload,
)

ImageLike = bytes | str | Path | Image.Image | NDArray[Any]
"""An encoded image, the name of a file that holds one, a Pillow image, or pixels as uint8: (H, W),
(H, W, 1), (H, W, 3) or (H, W, 4)."""


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """A file's bytes; decoded when it is read, and only as large as is needed."""

    body: bytes
    max_pixels: int

    def is_quick(self, rule: ImageRule) -> bool:
        """See `limelight.imaging.preprocessing.is_quick`."""
        return is_quick(self.body, rule)

    def read(self, rule: ImageRule) -> Upload:
        """See `limelight.imaging.preprocessing.read_upload`."""
        return read_upload(self.body, rule, max_pixels=self.max_pixels)

    def read_part(self, rule: ImageRule, part: View) -> Upload:
        """See `limelight.imaging.preprocessing.read_part`."""
        return read_part(self.body, rule, part, max_pixels=self.max_pixels)

    def picture(self) -> Image.Image:
        """Decode it in full, upright."""
        return decode(self.body, max_pixels=self.max_pixels).image


@dataclass(frozen=True, slots=True)
class PixelImage:
    """An image that is decoded already."""

    image: Image.Image

    def is_quick(self, rule: ImageRule) -> bool:
        """Return True: there is nothing to decode."""
        return True

    def read(self, rule: ImageRule) -> Upload:
        """Bring it to the network's input."""
        return Upload(*prepare(self.image, rule), *self.image.size)

    def read_part(self, rule: ImageRule, part: View) -> Upload:
        """Bring a rectangle of it to the network's input."""
        right, bottom = part.left + part.width, part.top + part.height
        pixels, view = prepare(self.image.crop((part.left, part.top, right, bottom)), rule)
        view = View(view.left + part.left, view.top + part.top, view.width, view.height)
        return Upload(pixels, view, *self.image.size)

    def picture(self) -> Image.Image:
        """Return the image itself."""
        return self.image


def is_one(images: object) -> TypeIs[ImageLike]:
    """Whether this is one image, and not several; an array of four dimensions is several."""
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return isinstance(images, bytes | str | Path | Image.Image)


def source_of(image: ImageLike, *, max_pixels: int) -> EncodedImage | PixelImage:
    """Make a source of whatever an image is given as.

    Raises:
        OSError: the file cannot be read.
        UndecodableImage: an array that is no image.
        TypeError: it is none of `ImageLike`.
    """
    if isinstance(image, bytes):
        return EncodedImage(image, max_pixels)
    if isinstance(image, str | Path):
        return EncodedImage(Path(image).read_bytes(), max_pixels)
    if isinstance(image, Image.Image):
        return PixelImage(plain(ImageOps.exif_transpose(image)))
    if isinstance(image, np.ndarray):
        return PixelImage(_image_of(image))
    raise TypeError(f"{type(image).__name__} is no image: give bytes, a path, an image or an array")


def _image_of(pixels: NDArray[Any]) -> Image.Image:
    shape = pixels.shape if pixels.ndim == 3 else (*pixels.shape, 1)
    if pixels.dtype != np.uint8 or len(shape) != 3 or shape[2] not in (1, 3, 4) or 0 in shape:
        raise UndecodableImage(
            f"an array of {pixels.dtype} {pixels.shape} is no image: give uint8, (H, W), (H, W, 3) "
            "or (H, W, 4)"
        )
    if shape[2] == 4:
        return Image.fromarray(pixels)
    return picture_of(pixels.reshape(shape))
