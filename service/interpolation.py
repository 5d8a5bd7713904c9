"""Bilinear interpolation between the centres of a map's cells, as a matrix."""

import functools

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=256)
def bilinear(cells: int, positions: int) -> NDArray[np.float32]:
    """(positions, cells): the weight of each cell at each position, rows summing to 1.

    Constant beyond the outermost centres, as with torch's `align_corners=False`.
    """
    places = ((np.arange(positions) + 0.5) * (cells / positions) - 0.5).clip(0, cells - 1)
    distance = np.abs(places[:, None] - np.arange(cells))
    weights: NDArray[np.float32] = np.maximum(1 - distance, 0).astype(np.float32)
    return weights
