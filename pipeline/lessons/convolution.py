"""A convolution by hand, as in fastbook's chapter 13 (2020), with numpy alone.

`apply_kernel` is one activation, `convolve` all of them, and `as_matrix` the matrix whose product
with the pixels is the same: its rows share their weights, and most of them are zero. As in neural
networks the kernel is not flipped, so that mathematicians call it a cross-correlation.
"""

import re
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from pipeline.errors import PipelineError

Array = NDArray[np.float64]

KERNELS: dict[str, tuple[tuple[int, ...], ...]] = {
    "top-edge": ((-1, -1, -1), (0, 0, 0), (1, 1, 1)),
    "left-edge": ((-1, 1, 0), (-1, 1, 0), (-1, 1, 0)),
    "diagonal-1": ((0, -1, 1), (-1, 1, 0), (1, 0, 0)),
    "diagonal-2": ((1, -1, 0), (0, 1, -1), (0, 0, 1)),
}
"""The chapter's edge detectors. They answer where dark is above, or before, light."""


def output_size(size: int, kernel: int, *, padding: int = 0, stride: int = 1) -> int:
    """Return the side of a convolution's output, (size + 2 padding - kernel) // stride + 1.

    Raises:
        ValueError: the kernel does not fit into the padded image, or a number is out of range.

    """
    if padding < 0 or stride < 1 or kernel < 1:
        raise ValueError(f"padding {padding}, stride {stride} and kernel {kernel}: out of range")
    if kernel > size + 2 * padding:
        raise ValueError(
            f"a kernel of {kernel} does not fit into {size} pixels with a padding of {padding}"
        )
    return (size + 2 * padding - kernel) // stride + 1


def padded(image_chw: ArrayLike, padding: int) -> Array:
    """Return the image with `padding` zeros on each side: (C, H + 2 padding, W + 2 padding)."""
    beside = (padding, padding)
    return np.pad(np.asarray(image_chw, np.float64), ((0, 0), beside, beside))


def apply_kernel(
    image_chw: ArrayLike,
    kernel_chw: ArrayLike,
    row: int,
    column: int,
    *,
    padding: int = 0,
    stride: int = 1,
) -> float:
    """Return one activation: the sum of the pixels under the kernel, each times its weight.

    `row` and `column` are those of the activation in the output. The channels are summed.
    """
    kernel = np.asarray(kernel_chw, np.float64)
    _, height, width = kernel.shape
    top, left = row * stride, column * stride
    pixels = padded(image_chw, padding)[:, top : top + height, left : left + width]
    return float((pixels * kernel).sum())


def convolve(
    image_chw: ArrayLike, kernel_chw: ArrayLike, *, padding: int = 0, stride: int = 1
) -> Array:
    """Apply a kernel at every location: (C, H, W) and (C, kh, kw) -> (h, w).

    Raises:
        ValueError: the kernel does not fit, or has another number of channels.

    """
    maps = convolve_channels(image_chw, kernel_chw, padding=padding, stride=stride)
    total: Array = maps.sum(0)
    return total


def convolve_channels(
    image_chw: ArrayLike, kernel_chw: ArrayLike, *, padding: int = 0, stride: int = 1
) -> Array:
    """Apply each channel's kernel to its channel: (C, H, W) and (C, kh, kw) -> (C, h, w).

    Raises:
        ValueError: the kernel does not fit, or has another number of channels.

    """
    kernel = np.asarray(kernel_chw, np.float64)
    _check_fit(np.shape(image_chw), kernel.shape, padding=padding, stride=stride)
    windows = sliding_window_view(padded(image_chw, padding), kernel.shape[1:], (1, 2))
    # (C, h, w, kh, kw): what is under the kernel at each location. Nothing is copied.
    maps: Array = np.einsum("chwij,cij->chw", windows[:, ::stride, ::stride], kernel)
    return maps


def as_matrix(
    kernel_chw: ArrayLike, height: int, width: int, *, padding: int = 0, stride: int = 1
) -> Array:
    """Return the convolution as a matrix (h w, C H W) over the pixels in C, H, W order.

    A row is an activation. It has the kernel's weights, the same in each row (they are tied), and
    zeros where the kernel does not reach. A weight that falls on padding has no column, since it
    would multiply a zero.

    Raises:
        ValueError: the kernel does not fit.

    """
    kernel = np.asarray(kernel_chw, np.float64)
    channels, kernel_height, kernel_width = kernel.shape
    _check_fit((channels, height, width), kernel.shape, padding=padding, stride=stride)
    rows = output_size(height, kernel_height, padding=padding, stride=stride)
    columns = output_size(width, kernel_width, padding=padding, stride=stride)
    wide = np.zeros((rows, columns, channels, height + 2 * padding, width + 2 * padding))
    for row, column in np.ndindex(rows, columns):
        top, left = row * stride, column * stride
        wide[row, column, :, top : top + kernel_height, left : left + kernel_width] = kernel
    inside = wide[..., padding : padding + height, padding : padding + width]
    return inside.reshape(rows * columns, channels * height * width)


def kernel_for(name: str, channels: int) -> Array:
    """Return the kernel of the chapter or of a file for an image of `channels`: (C, kh, kw).

    A file has a row of numbers a line, and an empty line between the kernels of two channels. A
    single kernel is used for every channel.

    Raises:
        PipelineError: there is no such kernel, or it has another number of channels.

    """
    kernel = np.array([KERNELS[name]], np.float64) if name in KERNELS else _read(Path(name))
    if len(kernel) not in (1, channels):
        raise PipelineError(
            f"{name} has kernels for {len(kernel)} channels, and the image has {channels}: write "
            f"one kernel, or {channels} with an empty line between them"
        )
    return np.repeat(kernel, channels // len(kernel), axis=0)


def _read(file: Path) -> Array:
    if not file.is_file():
        raise PipelineError(f"no kernel {str(file)!r}; there are: {', '.join(KERNELS)}, or a file")
    try:
        blocks = _EMPTY_LINE.split(file.read_text(encoding="utf-8").replace(",", " ").strip())
        kernels = [
            [[float(number) for number in line.split()] for line in block.strip().splitlines()]
            for block in blocks
        ]
        kernel = np.array(kernels, np.float64)
    except (OSError, ValueError) as error:
        raise PipelineError(f"{file} is not a kernel ({error}); {_FORM}") from error
    if kernel.ndim != 3 or not kernel.size or not np.isfinite(kernel).all():
        raise PipelineError(f"{file} is not a kernel; {_FORM}")
    return kernel


_EMPTY_LINE = re.compile(r"\n\s*\n")
_FORM = "write a row of numbers a line, such as -1 0 1, each row with as many"


def _check_fit(
    image: tuple[int, ...], kernel: tuple[int, ...], *, padding: int, stride: int
) -> None:
    """Check that a kernel has the image's channels and fits into it."""
    if len(image) != 3 or len(kernel) != 3 or image[0] != kernel[0]:
        raise ValueError(f"image {image} and kernel {kernel}: (C, H, W) and (C, kh, kw) are needed")
    for size, side in zip(image[1:], kernel[1:], strict=True):
        output_size(size, side, padding=padding, stride=stride)
