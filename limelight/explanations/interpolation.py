"""Bilinear interpolation between the centres of a map's cells, as a matrix."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray


@functools.lru_cache(maxsize=256)
def bilinear(cells: int, positions: int) -> NDArray[np.float32]:
    """Return the weight of each cell at each position, (positions, cells); rows sum to 1.

    The interpolation is constant beyond the outermost centres, like PyTorch's
    `align_corners=False`.
    """
    return weights_at((np.arange(positions) + 0.5) * (cells / positions), cells)


def weights_at(places: NDArray[np.floating[Any]], cells: int) -> NDArray[np.float32]:
    """Return the weights at any places, in cells from the map's edge: (P,) -> (P, cells)."""
    centred = (places - 0.5).clip(0, cells - 1)
    distance = np.abs(centred[:, None] - np.arange(cells))
    weights: NDArray[np.float32] = np.maximum(1 - distance, 0).astype(np.float32)
    return weights
