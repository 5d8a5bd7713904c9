"""Interpolation of batches of images: enlarged middles, and pixels from anywhere."""

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Indices = NDArray[np.int64]


def zoomed(levels_nhwc: Floats, factor: float) -> Floats:
    """Enlarge the middle of each image by `factor`, so that it keeps its size, bilinearly."""
    rows, columns = (_enlarging(size, factor) for size in levels_nhwc.shape[1:3])
    middle: Floats = np.einsum("yh,nhwc,xw->nyxc", rows, levels_nhwc, columns, optimize=True)
    return middle


def _enlarging(size: int, factor: float) -> Floats:
    """Return the matrix (size, size) that enlarges one direction.

    The corners of the middle and of what it becomes coincide, as in `scipy.ndimage.zoom`.
    """
    part = math.ceil(size / factor)
    enlarged = round(part * factor)
    at = np.arange(enlarged) * ((part - 1) / max(1, enlarged - 1))
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(part)))
    first, start = (enlarged - size) // 2, (size - part) // 2
    matrix = np.zeros((size, size), np.float32)
    matrix[:, start : start + part] = weights[first : first + size]
    return matrix


def picked(levels_nhwc: Floats, rows: Indices, columns: Indices) -> Floats:
    """Take whole pixels: (N, H, W, C) at rows and columns that broadcast to (N, h, w)."""
    return levels_nhwc[np.arange(len(levels_nhwc))[:, None, None], rows, columns]


def sampled(levels_nhwc: Floats, rows: Floats, columns: Floats, *, edge_twice: bool) -> Floats:
    """Interpolate bilinearly between pixels: (N, H, W, C) at rows and columns (N, h, w).

    Beyond the edge the image is mirrored; with `edge_twice` the pixels of the edge are repeated.
    """
    height, width = levels_nhwc.shape[1:3]
    top, left = np.floor(rows), np.floor(columns)
    down: Floats = (rows - top)[..., None]
    right: Floats = (columns - left)[..., None]
    ys = [_mirrored(top + step, height, edge_twice) for step in (0, 1)]
    xs = [_mirrored(left + step, width, edge_twice) for step in (0, 1)]
    upper, lower = (
        picked(levels_nhwc, y, xs[0]) * (1 - right) + picked(levels_nhwc, y, xs[1]) * right
        for y in ys
    )
    return (upper * (1 - down) + lower * down).astype(np.float32)


def _mirrored(places: Floats, size: int, edge_twice: bool) -> Indices:
    """Bring whole-numbered places on an endless line of mirror images back to 0 .. size - 1."""
    period = 2 * size if edge_twice else max(1, 2 * size - 2)
    within: Indices = places.astype(np.int64) % period
    return np.minimum(within, period - within - edge_twice)
