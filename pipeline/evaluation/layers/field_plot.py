"""Pixels of the image that one activation of a layer depends on, and a picture of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.errors import PipelineError
from pipeline.evaluation.layers.layer_summary import LayerSummary

_SIDE_INCHES = 3.6
# Lines between more cells than this would hide them.
_MOST_LINES = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class SeenPixels:
    """Receptive field of one activation, within the image."""

    layer: LayerSummary
    row: int
    column: int
    rows: range
    columns: range

    def __str__(self) -> str:
        return (
            f"{self.layer.name} at row {self.row}, column {self.column} sees rows "
            f"{self.rows.start} to {self.rows.stop - 1} and columns {self.columns.start} to "
            f"{self.columns.stop - 1}: {len(self.rows)} x {len(self.columns)} pixels"
        )


def seen_pixels(
    layers: Sequence[LayerSummary], name: str, row: int, column: int, *, height: int, width: int
) -> SeenPixels:
    """Find the pixels that an activation of the layer `name` sees, of an image of that size.

    Raises:
        PipelineError: there is no such layer or activation.

    """
    found = [layer for layer in layers if layer.name == name]
    if not found:
        names = ", ".join(layer.name for layer in layers)
        raise PipelineError(f"no layer {name!r}; there are: {names}")
    layer = found[0]
    rows, columns = _map_size(layer)
    if not (0 <= row < rows and 0 <= column < columns):
        raise PipelineError(
            f"{name} has {rows} x {columns} activations: there is no row {row}, column {column}; "
            "they begin at 0"
        )
    return SeenPixels(
        layer=layer,
        row=row,
        column=column,
        rows=layer.receptive_field.pixels(row, height),
        columns=layer.receptive_field.pixels(column, width),
    )


def draw_seen(seen: SeenPixels, *, height: int, width: int) -> Figure:
    """Draw the layer's activations with the one that is looked at, and the image that it sees."""
    figure = Figure(figsize=(2 * _SIDE_INCHES, _SIDE_INCHES), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows, columns = _map_size(seen.layer)
    row, column = seen.row, seen.column
    _draw_grid(left, (rows, columns), range(row, row + 1), range(column, column + 1))
    left.set_title(f"{seen.layer.name}: {rows} x {columns}, this activation", fontsize=9)
    _draw_grid(right, (height, width), seen.rows, seen.columns)
    right.set_title(
        f"image: {height} x {width}, it sees {len(seen.rows)} x {len(seen.columns)}", fontsize=9
    )
    return figure


def _draw_grid(axes: Axes, size: tuple[int, int], rows: range, columns: range) -> None:
    marked = np.zeros(size)
    marked[rows.start : rows.stop, columns.start : columns.stop] = 1
    axes.imshow(marked, cmap="Blues", vmin=0, vmax=1.5)
    axes.tick_params(labelsize=7)
    if max(size) <= _MOST_LINES:
        height, width = size
        axes.hlines(np.arange(height + 1) - 0.5, -0.5, width - 0.5, color="#888888", linewidth=0.3)
        axes.vlines(np.arange(width + 1) - 0.5, -0.5, height - 0.5, color="#888888", linewidth=0.3)


def _map_size(layer: LayerSummary) -> tuple[int, int]:
    """Return height and width of a layer's output; 1 x 1 if it is a vector."""
    if len(layer.output_shape) < 3:
        return 1, 1
    _, height, width = layer.output_shape
    return height, width
