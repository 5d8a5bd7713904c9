"""A convolution of one picture, with what it is compared to: a matrix product and torch's."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limelight.errors import LimelightError
from limelight.imaging.decoding import decode
from limelight.imaging.preprocessing import flatten
from pipeline.errors import PipelineError
from pipeline.lessons.convolution import Array, as_matrix, convolve, convolve_channels

MAX_PIXELS = 40_000_000
MOST_PIXELS = 1_000_000
"""Pictures with more pixels are reduced by a whole factor."""
MATRIX_SIDE = 28
"""Side of the part that the matrix is written for: MNIST's digits are covered whole."""
_BLACK = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ByHand:
    """A convolution of one picture, and the activation that is looked at."""

    image_chw: Array
    """Pixels from 0 to 255."""
    kernel_chw: Array
    padding: int
    stride: int
    row: int
    """Row of the activation in the output."""
    column: int
    channels_chw: Array
    """Each channel's own map."""

    @property
    def output(self) -> Array:
        """The sum of the channels' maps: (h, w)."""
        total: Array = self.channels_chw.sum(0)
        return total

    @property
    def under(self) -> tuple[slice, slice]:
        """Rows and columns of the padded image that the kernel is over."""
        _, height, width = self.kernel_chw.shape
        top, left = self.row * self.stride, self.column * self.stride
        return slice(top, top + height), slice(left, left + width)

    def part(self) -> Array:
        """Return the pixels that the matrix is written for, around the activation: (C, h, w)."""
        _, height, width = self.kernel_chw.shape
        rows, columns = self.under
        top = _first(rows.start - self.padding, self.image_chw.shape[1], max(MATRIX_SIDE, height))
        left = _first(
            columns.start - self.padding, self.image_chw.shape[2], max(MATRIX_SIDE, width)
        )
        return self.image_chw[
            :, top : top + max(MATRIX_SIDE, height), left : left + max(MATRIX_SIDE, width)
        ]

    def matrix(self) -> Array:
        """Return the matrix of the convolution of `part`."""
        _, height, width = self.part().shape
        return as_matrix(self.kernel_chw, height, width, padding=self.padding, stride=self.stride)

    def matrix_difference(self) -> float:
        """Return the largest difference between the matrix product and the convolution."""
        part = self.part()
        expected = convolve(part, self.kernel_chw, padding=self.padding, stride=self.stride)
        return _largest(self.matrix() @ part.ravel() - expected.ravel())

    def conv2d_difference(self) -> float:
        """Return the largest difference between torch's `conv2d` and the output."""
        import torch

        images, kernels = map(torch.from_numpy, (self.image_chw[None], self.kernel_chw[None]))
        found = torch.nn.functional.conv2d(
            images, kernels, padding=self.padding, stride=self.stride
        )
        return _largest(found[0, 0].numpy() - self.output)


def convolve_picture(
    image_chw: NDArray[np.uint8],
    kernel_chw: Array,
    *,
    padding: int = 0,
    stride: int = 1,
    at: tuple[int, int] | None = None,
) -> ByHand:
    """Convolve a picture; without `at`, the activation of the largest size is looked at.

    Raises:
        PipelineError: the kernel does not fit, or `at` is not in the output.

    """
    pixels = image_chw.astype(np.float64)
    try:
        channels = convolve_channels(pixels, kernel_chw, padding=padding, stride=stride)
    except ValueError as error:
        raise PipelineError(
            f"{error}; choose another kernel, --padding or --stride, or a larger image"
        ) from error
    height, width = channels.shape[1:]
    if at is None:
        row, column = divmod(int(np.abs(channels.sum(0)).argmax()), width)
    else:
        row, column = at
    if not (0 <= row < height and 0 <= column < width):
        raise PipelineError(
            f"there is no row {row}, column {column} in an output of {height} x {width}; they "
            "begin at 0"
        )
    return ByHand(
        image_chw=pixels,
        kernel_chw=kernel_chw,
        padding=padding,
        stride=stride,
        row=row,
        column=column,
        channels_chw=channels,
    )


def read_picture(file: Path) -> NDArray[np.uint8]:
    """Read an image file: (1, H, W) if it is grey, (3, H, W) if it is in colour.

    Raises:
        PipelineError: it cannot be read.

    """
    try:
        image = decode(file.read_bytes(), max_pixels=MAX_PIXELS, own_file=True)
    except (OSError, LimelightError) as error:
        raise PipelineError(f"{file} cannot be read ({error}); choose an image file") from error
    pixels = np.asarray(flatten(image.reduced(MOST_PIXELS), _BLACK))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _first(start: int, size: int, length: int) -> int:
    """Return where a part of `length` begins that holds what is at `start`, if the image has it."""
    return int(np.clip(start - length // 2, 0, max(0, size - length)))


def _largest(difference: Array) -> float:
    return float(np.abs(difference).max())
