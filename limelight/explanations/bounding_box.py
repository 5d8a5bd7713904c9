"""Bounding box of a class activation map, in pixels of the upload."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelight.explanations.interpolation import weights_at
from limelight.imaging.preprocessing import View

_Lines = Sequence[Sequence[float]]

_SHARE = 0.5


@dataclass(slots=True)
class Box:
    """Rectangle in pixels of the upload, edges counted from 0."""

    left: float
    top: float
    right: float
    bottom: float


def locate(
    cam_hw: NDArray[np.float32], view: View, upload: tuple[int, int]
) -> tuple[Box, np.float32]:
    """Return the smallest rectangle that contains all values above half of the peak, and the peak.

    The map is interpolated bilinearly between the centres of its cells and clipped to the upload
    (width, height). If the peak is not positive, the threshold is the middle of the map's range
    instead. A constant map gives the whole visible part. The returned peak is that of the whole
    map, and may lie outside the upload.
    """
    rows, columns = cam_hw.shape
    along_x = _axis(columns, view.left, view.width, upload[0])
    along_y = _axis(rows, view.top, view.height, upload[1])
    # In plain Python: for a map of a hundred cells numpy's overhead per call is longer, and numpy
    # would release the interpreter's lock to the next batch.
    lines = _visible(cam_hw, along_y, along_x)
    highest = [*map(max, lines)]
    peak = max(highest)
    whole = along_x.weights is None and along_y.weights is None
    map_peak = np.float32(peak) if whole else cam_hw.max()
    least = 0.0 if peak > 0 else min(map(min, lines))
    if peak == least:
        return Box(along_x.start, along_y.start, along_x.end, along_y.end), map_peak
    threshold = least + (peak - least) * _SHARE
    first, last = 0, len(lines) - 1
    while highest[first] <= threshold:
        first += 1
    while highest[last] <= threshold:
        last -= 1
    across = [*zip(*lines[first : last + 1], strict=True)]
    leftmost, rightmost = 0, len(across) - 1
    while max(across[leftmost]) <= threshold:
        leftmost += 1
    while max(across[rightmost]) <= threshold:
        rightmost -= 1
    left, top, right, bottom = along_x.start, along_y.start, along_x.end, along_y.end
    if leftmost > 0:
        left = _edge(across, leftmost, leftmost - 1, threshold, along_x.knots)
    if first > 0:
        top = _edge(lines, first, first - 1, threshold, along_y.knots)
    if rightmost < len(across) - 1:
        right = _edge(across, rightmost, rightmost + 1, threshold, along_x.knots)
    if last < len(lines) - 1:
        bottom = _edge(lines, last, last + 1, threshold, along_y.knots)
    return Box(left, top, right, bottom), map_peak


@dataclass(frozen=True, slots=True)
class _Axis:
    """Part of a map inside the upload, along one direction, in pixels of the upload."""

    start: float
    end: float
    knots: tuple[float, ...]
    """Knots of the interpolation: linear between them, constant before the first and after the
    last."""
    weights: NDArray[np.float32] | None
    """Weight of each cell at each knot; None if the knots are the centres of all cells."""


@functools.lru_cache(maxsize=1024)
def _axis(cells: int, start: float, extent: float, size: int) -> _Axis:
    """Compute the axis of `cells` over [start, start + extent), clipped to the upload [0, size)."""
    step = extent / cells
    first = min(max(-start / step, 0.0), float(cells))
    last = max(first, min((size - start) / step, float(cells)))
    knots = [at + 0.5 for at in range(cells) if first <= at + 0.5 <= last]
    weights = None
    if len(knots) < cells:
        # Only the part inside the upload counts: a peak over padding has no box.
        knots = sorted({first, last, *knots})
        weights = weights_at(np.array(knots), cells)

    def pixels(at: float) -> float:
        return min(max(start + at * step, 0.0), float(size))

    start_px, end_px = _rounded(pixels(first)), _rounded(pixels(last))
    return _Axis(start_px, end_px, tuple(map(pixels, knots)), weights)


def _visible(cam_hw: NDArray[np.float32], along_y: _Axis, along_x: _Axis) -> _Lines:
    if along_y.weights is not None:
        cam_hw = along_y.weights @ cam_hw
    if along_x.weights is not None:
        cam_hw = cam_hw @ along_x.weights.T
    values: _Lines = cam_hw.tolist()
    return values


def _edge(lines: _Lines, over: int, below: int, threshold: float, knots: Sequence[float]) -> float:
    """Return the position between two neighbouring lines where the map falls to `threshold`."""
    longest = 0.0
    for high, low in zip(lines[over], lines[below], strict=True):
        if high > threshold:
            fall = (high - threshold) / (high - low)
            if fall > longest:
                longest = fall
    return _rounded(knots[over] + longest * (knots[below] - knots[over]))


def _rounded(pixels: float) -> float:
    """Round to hundredths; `round` takes twice as long. `pixels` is not negative."""
    return int(pixels * 100 + 0.5) / 100
