"""Where in the upload a class activation map says its class is: a rectangle in pixels."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.images import View
from service.interpolation import weights_at

_Lines = Sequence[Sequence[float]]

_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of the upload, edges counted from 0."""

    left: float
    top: float
    right: float
    bottom: float


def bounding_box(cam_hw: NDArray[np.float32], view: View, upload: tuple[int, int]) -> Box:
    """The smallest rectangle of the upload that holds the values over half of the map's peak.

    The map is interpolated bilinearly between the centres of its cells and clipped to the upload
    (width, height). A map whose peak is not positive supports its class nowhere: "over half of
    the peak" then means the upper half of its range. A constant map gives all that is seen.
    """
    width, height = upload
    rows, columns = cam_hw.shape
    along_x = _axis(columns, view.left, view.width, width)
    along_y = _axis(rows, view.top, view.height, height)
    # In Python: numpy takes longer to start than a map of a hundred cells to go through, and
    # would give up the interpreter's lock to the next pass on the way.
    values = _seen(cam_hw, along_y, along_x)
    across = [*zip(*values, strict=True)]
    highest_by_row, highest_by_column = list(map(max, values)), list(map(max, across))
    peak = max(highest_by_row)
    least = 0.0 if peak > 0 else min(map(min, values))
    threshold = least + (peak - least) * _SHARE
    left, right = _extent(values, highest_by_column, along_x, threshold)
    top, bottom = _extent(across, highest_by_row, along_y, threshold)
    step_x, step_y = view.width / columns, view.height / rows
    return Box(
        left=_within(view.left + left * step_x, width),
        top=_within(view.top + top * step_y, height),
        right=_within(view.left + right * step_x, width),
        bottom=_within(view.top + bottom * step_y, height),
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """The part of a map that lies in the upload, along one direction, in cells from 0."""

    start: float
    end: float
    knots: tuple[float, ...]
    """Where the interpolation turns: between them it is linear, before and behind constant."""
    weights: NDArray[np.float32] | None
    """Of each cell at each knot; None where the knots are the centres of all cells."""


@functools.lru_cache(maxsize=1024)
def _axis(cells: int, start: float, extent: float, size: int) -> _Axis:
    """Of a map of `cells` over [start, start + extent) of an upload of [0, size)."""
    first = min(max(-start / extent * cells, 0.0), float(cells))
    last = max(first, min((size - start) / extent * cells, float(cells)))
    centres = [at + 0.5 for at in range(cells)]
    knots = [at for at in centres if first <= at <= last]
    if len(knots) == cells:
        return _Axis(first, last, tuple(knots), None)
    # Only what lies in the upload counts: the peak of a map over padding is nobody's box.
    knots = sorted({first, last, *knots})
    return _Axis(first, last, tuple(knots), weights_at(np.array(knots), cells))


def _seen(cam_hw: NDArray[np.float32], along_y: _Axis, along_x: _Axis) -> _Lines:
    if along_y.weights is not None:
        cam_hw = along_y.weights @ cam_hw
    if along_x.weights is not None:
        cam_hw = cam_hw @ along_x.weights.T
    values: _Lines = cam_hw.tolist()
    return values


def _extent(
    lines: _Lines, highest: Sequence[float], axis: _Axis, threshold: float
) -> tuple[float, float]:
    """The first and the last place along `axis` where one of the lines is over `threshold`.

    `highest` is the highest of all lines at each knot.
    """
    if max(highest) <= threshold:  # a constant map
        return axis.start, axis.end
    first, last, knots = 0, len(highest) - 1, axis.knots
    while highest[first] <= threshold:
        first += 1
    while highest[last] <= threshold:
        last -= 1
    start, end = axis.start, axis.end
    if first > 0:
        step = knots[first] - knots[first - 1]
        start = knots[first] - step * _longest_fall(lines, first, first - 1, threshold)
    if last < len(highest) - 1:
        step = knots[last + 1] - knots[last]
        end = knots[last] + step * _longest_fall(lines, last, last + 1, threshold)
    return start, end


def _longest_fall(lines: _Lines, over: int, below: int, threshold: float) -> float:
    """The share of the way from one knot to the next after which all lines are at `threshold`."""
    longest = 0.0
    for line in lines:
        value = line[over]
        if value > threshold:
            share = (value - threshold) / (value - line[below])
            if share > longest:
                longest = share
    return longest


def _within(value: float, size: int) -> float:
    return round(min(max(value, 0.0), float(size)), 2)
