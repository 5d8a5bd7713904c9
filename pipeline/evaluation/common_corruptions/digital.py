"""Digital corruptions: contrast, elastic transform, pixels and JPEG. Levels from 0 to 1."""

import io
from collections.abc import Callable

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from limelight.imaging.preprocessing import picture_of
from pipeline.evaluation.common_corruptions.resampling import Floats, sampled

Bytes = NDArray[np.uint8]
# Pillow's number for colours at half of the resolution in each direction.
_CHROMA_420 = 2


def contrast(levels_nhwc: Floats, rng: Generator, factor: float) -> Floats:
    """Bring each channel nearer to its mean."""
    means = levels_nhwc.mean((1, 2), keepdims=True)
    reduced: Floats = (levels_nhwc - means) * np.float32(factor) + means
    return reduced


def elastic_transform(
    levels_nhwc: Floats, rng: Generator, strength: float, deviation: float, affine: float
) -> Floats:
    """Distort by a random affine transform, and then by a smooth field of displacements.

    Args:
        levels_nhwc: the images.
        rng: draws both.
        strength: of the displacements before they are smoothed; a share of the height, as are all.
        deviation: of the smoothing.
        affine: largest displacement of each corner of a triangle in the middle.

    """
    count, height, width, _ = levels_nhwc.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    middle, reach = np.array([width // 2, height // 2]), max(1, min(height, width) // 3)
    corners = middle + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + rng.uniform(-affine * height, affine * height, (count, 3, 2))
    # Rows (x, y, 1) of the result to rows (x, y) of the image.
    back = np.linalg.solve(np.concatenate([moved, np.ones((count, 3, 1))], 2), corners[None])
    across, down = (
        (x * part[0] + y * part[1] + part[2]).astype(np.float32)
        for part in back.transpose(2, 1, 0)[..., None, None]
    )
    turned = sampled(levels_nhwc, down, across, edge_twice=False)
    fields = rng.uniform(-1, 1, (2, count, height, width)).astype(np.float32)
    smooth = (0, 0, deviation * height, deviation * height)
    fields = gaussian_filter(fields, smooth, truncate=3) * np.float32(strength * height)
    return sampled(turned, y + fields[0], x + fields[1], edge_twice=True)


def pixelate(levels_nhwc: Floats, rng: Generator, share: float) -> Floats:
    """Reduce the resolution to a share by averaging areas, and enlarge again likewise."""
    _, height, width, _ = levels_nhwc.shape
    small = max(1, int(width * share)), max(1, int(height * share))

    def reduced(picture: Image.Image) -> Image.Image:
        box = Image.Resampling.BOX
        return picture.resize(small, box).resize((width, height), box)

    return _as_levels(_each(_as_bytes(levels_nhwc), reduced))


def jpeg_compression(levels_nhwc: Floats, rng: Generator, quality: float) -> Floats:
    """Compress as JPEG and decompress."""
    return _as_levels(compressed(_as_bytes(levels_nhwc), int(quality)))


def compressed(images_nhwc: Bytes, quality: int) -> Bytes:
    """Compress uint8 images as JPEG with 4:2:0 colours, as cameras do, and decompress."""

    def decoded(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality, subsampling=_CHROMA_420)
        return Image.open(buffer)

    return _each(images_nhwc, decoded)


def _each(images_nhwc: Bytes, change: Callable[[Image.Image], Image.Image]) -> Bytes:
    """Change each image by Pillow."""
    changed = [np.asarray(change(picture_of(image))) for image in images_nhwc]
    return np.stack(changed).reshape(images_nhwc.shape)


def _as_bytes(levels_nhwc: Floats) -> Bytes:
    return np.rint(levels_nhwc * 255).astype(np.uint8)


def _as_levels(images_nhwc: Bytes) -> Floats:
    return images_nhwc.astype(np.float32) / np.float32(255)
