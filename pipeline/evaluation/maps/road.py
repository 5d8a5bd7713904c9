"""ROAD, remove and debias (Rong et al., 2022, arXiv 2202.00449)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu

from pipeline.evaluation.graph_inference import Images, Infer, infer_output
from pipeline.evaluation.maps.served_maps import Maps, enlarged, ranks_of

REMOVED = (0.2, 0.4, 0.6, 0.8)
"""Shares of the pixels that are removed."""
MOST_IMAGES = 64
MOST_PIXELS = 128 * 128
"""Largest image: the imputation solves a linear system with one equation per removed pixel."""
NOISE = 0.01
"""Standard deviation of the noise on imputed pixels, as a share of the range of a pixel."""
# Row, column and weight of each neighbour (section 4.1): those at an edge count twice as much.
_NEIGHBOURS = (
    (-1, 0, 1 / 6), (0, -1, 1 / 6), (0, 1, 1 / 6), (1, 0, 1 / 6),
    (-1, -1, 1 / 12), (-1, 1, 1 / 12), (1, -1, 1 / 12), (1, 1, 1 / 12),
)  # fmt: skip

Mask = NDArray[np.bool_]
Pixels = NDArray[np.float64]


def road(
    infer: Infer, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> float | None:
    """Measure how much more a class loses without its map's highest pixels than its lowest.

    Half of the difference of the class's probability with the lowest pixels removed and with the
    highest removed, as the mean over the first 64 images (N, H, W, C) and over shares of removed
    pixels. Removed pixels are imputed from their neighbours with a little noise, so that their
    shape is no clue. None for images of more than 128x128 pixels.
    """
    height, width = images.shape[1:3]
    if height * width > MOST_PIXELS:
        return None
    images, classes, maps = images[:MOST_IMAGES], classes[:MOST_IMAGES], maps[:MOST_IMAGES]
    # Ranks make all pixels differ: those of a constant map would be removed all at once.
    ranks = np.stack([ranks_of(enlarged(map_hw, height, width)) for map_hw in maps])
    impute = Imputer(height, width, np.random.default_rng(0))
    lowest, highest = [], []
    for share in REMOVED:
        for image_hwc, ranks_hw in zip(images, ranks, strict=True):
            lowest.append(impute(image_hwc, ranks_hw >= 1 - share))
            highest.append(impute(image_hwc, ranks_hw < share))
    probabilities = infer_output(infer, np.stack([*lowest, *highest]), "probabilities")
    shown = probabilities[np.arange(len(probabilities)), np.tile(classes, 2 * len(REMOVED))]
    without_lowest, without_highest = np.split(shown.astype(np.float64), 2)
    return float((without_lowest - without_highest).mean() / 2)


class Imputer:
    """Noisy linear imputation: a removed pixel is the weighted mean of its eight neighbours.

    Args:
        height: of the images.
        width: of the images.
        rng: draws the noise.
        noise: see `NOISE`.

    """

    def __init__(
        self, height: int, width: int, rng: np.random.Generator, *, noise: float = NOISE
    ) -> None:
        self._rng, self._noise = rng, noise
        rows, columns = np.divmod(np.arange(height * width), width)
        below, right, weights = (np.array(each) for each in zip(*_NEIGHBOURS, strict=True))
        near_rows, near_columns = rows[:, None] + below, columns[:, None] + right
        inside = (near_rows >= 0) & (near_rows < height) & (near_columns >= 0)
        inside &= near_columns < width
        # Neighbours of each pixel (HW, 8); one outside the image has weight 0.
        self._near = np.where(inside, near_rows * width + near_columns, 0)
        self._weights = inside * weights

    def __call__(self, image_hwc: Images, removed_hw: Mask) -> Images:
        """Impute the removed pixels of an image; some pixel must be left."""
        pixels, removed = image_hwc.reshape(-1, image_hwc.shape[2]) / 255, removed_hw.ravel()
        imputed = self._solve(pixels, removed)
        imputed += self._noise * self._rng.standard_normal(imputed.shape)
        pixels[removed] = imputed
        levels = np.rint(pixels * 255).clip(0, 255).astype(np.uint8)
        return levels.reshape(image_hwc.shape)

    def _solve(self, pixels: Pixels, removed: Mask) -> Pixels:
        """Return the removed pixels, (M, C), that are the means of their neighbours."""
        near, weights = self._near[removed], self._weights[removed]
        unknown = removed[near]
        known_sums = np.einsum("mn,mnc->mc", weights * ~unknown, pixels[near])
        numbers = np.cumsum(removed) - 1
        equations, count = np.arange(len(near)), 8
        of_unknown = unknown & (weights > 0)
        rows = np.repeat(equations, count).reshape(-1, count)[of_unknown]
        values = np.concatenate([weights.sum(1), -weights[of_unknown]])
        places = (
            np.concatenate([equations, rows]),
            np.concatenate([equations, numbers[near[of_unknown]]]),
        )
        system = csc_matrix((values, places), shape=(len(near), len(near)))
        # It is symmetric and positive definite, so its factors need no pivots.
        factors = splu(
            system, "MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
        )
        solved: Pixels = factors.solve(known_sums)
        return solved
