"""A convolution by hand as a picture."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.patches import Rectangle

from pipeline.lessons.by_hand import ByHand
from pipeline.lessons.convolution import Array, as_matrix, padded

_CELL_INCHES, _TITLE_INCHES, _MATRIX_INCHES = 2.4, 0.5, 2.2
_COLUMNS = 4
_NAMES = {1: ("grey",), 3: ("red", "green", "blue")}
# Larger kernels have numbers too small to read.
_MOST_NUMBERS = 7
_FULL_COLOUR = 0.99
_MATRIX_SIDE = 8
"""Side of the image that the matrix is drawn for: larger ones have cells too small to see."""


def draw_convolution(found: ByHand) -> Figure:
    """Draw channels, the pixels under the kernel, kernels, and maps; below, a matrix.

    A colour image has a row for each channel, and one for their sum. Red is positive, blue is
    negative.
    """
    channels = len(found.image_chw)
    rows = channels + (channels > 1)
    height = rows * _CELL_INCHES + _TITLE_INCHES + _MATRIX_INCHES
    figure = Figure(figsize=(_COLUMNS * _CELL_INCHES, height), layout="constrained")
    grid = GridSpec(
        rows + 1, _COLUMNS, figure=figure, height_ratios=[*[_CELL_INCHES] * rows, _MATRIX_INCHES]
    )
    scale = _scale(found.channels_chw)
    for number in range(channels):
        axes = [figure.add_subplot(grid[number, column]) for column in range(_COLUMNS)]
        _draw_channel(axes, found, number, scale)
    if channels > 1:
        _draw_sum(
            figure.add_subplot(grid[channels, 0]), figure.add_subplot(grid[channels, 3]), found
        )
    _draw_matrix(figure.add_subplot(grid[rows, :]), found)
    return figure


def _draw_channel(axes: list[Axes], found: ByHand, number: int, scale: float) -> None:
    image, under, kernel, result = axes
    channel = found.image_chw[number]
    image.set_title(f"{_NAMES[len(found.image_chw)][number]} pixels", fontsize=9)
    image.imshow(channel, cmap="gray", vmin=0, vmax=255)
    _frame_kernel(image, found)
    rows, columns = found.under
    pixels = padded(found.image_chw, found.padding)[number, rows, columns]
    _draw_numbers(under, pixels, "under the kernel", cmap="gray", low=0, high=255)
    weights = found.kernel_chw[number]
    most = float(np.abs(found.kernel_chw).max()) or 1.0
    _draw_numbers(kernel, weights, "kernel", cmap="RdBu_r", low=-most, high=most)
    value = found.channels_chw[number, found.row, found.column]
    _draw_map(result, found.channels_chw[number], found, scale, f"map; here {value:g}")


def _draw_sum(image: Axes, result: Axes, found: ByHand) -> None:
    image.set_title("image", fontsize=9)
    image.imshow(found.image_chw.transpose(1, 2, 0) / 255)
    _frame_kernel(image, found)
    value = found.output[found.row, found.column]
    _draw_map(result, found.output, found, _scale(found.output), f"sum of the maps; here {value:g}")


def _scale(values: Array) -> float:
    """Return the size that is drawn in full colour.

    The few largest activations would leave the rest pale: edges of the padding, in a photograph.
    """
    sizes = np.abs(values)
    return float(np.quantile(sizes, _FULL_COLOUR)) or float(sizes.max()) or 1.0


def _draw_map(axes: Axes, values: Array, found: ByHand, scale: float, title: str) -> None:
    axes.imshow(values, cmap="RdBu_r", vmin=-scale, vmax=scale)
    axes.set_title(title, fontsize=9)
    axes.add_patch(_frame(found.column, found.row, 1, 1))
    axes.tick_params(labelsize=7)


def _draw_numbers(
    axes: Axes, values: Array, title: str, *, cmap: str, low: float, high: float
) -> None:
    axes.imshow(values, cmap=cmap, vmin=low, vmax=high, alpha=0.6)
    axes.set_title(title, fontsize=9)
    axes.set_xticks([])
    axes.set_yticks([])
    if max(values.shape) <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(values):
            axes.text(column, row, f"{value:g}", ha="center", va="center", fontsize=8)


def _draw_matrix(axes: Axes, found: ByHand) -> None:
    """Draw the matrix for an image as small as the kernel lets it be seen in, of one channel."""
    kernel = found.kernel_chw[:1]
    side = max(_MATRIX_SIDE, *kernel.shape[1:])
    matrix = as_matrix(kernel, side, side, padding=found.padding, stride=found.stride)
    most = float(np.abs(matrix).max()) or 1.0
    axes.imshow(matrix, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    axes.set_title(
        f"one channel of {side} x {side} pixels as a matrix: a row is an activation, a column a "
        "pixel, and white is zero",
        fontsize=9,
    )
    axes.tick_params(labelsize=7)


def _frame_kernel(axes: Axes, found: ByHand) -> None:
    """Frame the pixels under the kernel, which may reach into the padding."""
    rows, columns = found.under
    height, width = rows.stop - rows.start, columns.stop - columns.start
    left, top = columns.start - found.padding, rows.start - found.padding
    axes.add_patch(_frame(left, top, width, height))
    axes.tick_params(labelsize=7)


def _frame(column: int, row: int, width: int, height: int) -> Rectangle:
    return Rectangle(
        (column - 0.5, row - 0.5), width, height, fill=False, edgecolor="#e0702a", linewidth=1.5
    )
