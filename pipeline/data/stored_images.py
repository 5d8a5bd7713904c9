"""Images in a file, for data that may be larger than memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from weakref import finalize

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

_BATCH_BYTES = 32 << 20


class ImageFile:
    """File of images, open for reading as long as something refers to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY)
        finalize(self, os.close, self.descriptor)


class StoredImages:
    """Rows of a file of images, which are read when they are indexed: uint8 (N, H, W, C).

    Row r lies at byte r * H * W * C of the file.

    Args:
        file: the images, one after the other; None if they were only counted.
        image_shape: (H, W, C).
        rows: (N,), the row of each image.

    """

    def __init__(
        self, file: ImageFile | None, image_shape: tuple[int, int, int], rows: NDArray[np.int64]
    ) -> None:
        self._file, self._image_shape, self._rows = file, image_shape, rows

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C)."""
        return (len(self._rows), *self._image_shape)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: slice | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Read the images at `key` into memory, in that order.

        Raises:
            DataError: the file has become shorter, or the images were only counted.

        """
        if self._file is None:
            raise DataError("these images were listed, and not decoded")
        rows = self._rows[key]
        images = np.empty((len(rows), *self._image_shape), np.uint8)
        size = images[:1].nbytes
        # A mapped file would end the process if it became shorter, and count as its memory.
        for image, row in zip(images, rows.tolist(), strict=True):
            if os.preadv(self._file.descriptor, [image.data], row * size) < size:
                raise DataError(f"{self._file.path} is incomplete: delete it, and start again")
        return images

    def take(self, indices: NDArray[np.int64]) -> "StoredImages":
        """Select the images at `indices`, (M,), in that order; none is read."""
        return StoredImages(self._file, self._image_shape, self._rows[indices])


Images = NDArray[np.uint8] | StoredImages
"""uint8 (N, H, W, C), in memory or not."""


def in_batches(images: Images, size: int | None = None) -> Iterator[NDArray[np.uint8]]:
    """Yield `images` in batches of at most `size`, (B, H, W, C); by default 32 MiB each."""
    _, height, width, channels = images.shape
    size = size or max(1, _BATCH_BYTES // (height * width * channels))
    for start in range(0, len(images), size):
        yield images[start : start + size]
