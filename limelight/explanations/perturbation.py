"""Perturbation-based explanations: mask the image, evaluate it again; no gradients needed.

Each method creates masked images, and computes a map from the logits of one class on them. Masking
blends pixels with the image's mean colour, which carries the least information.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limelight.explanations.interpolation import bilinear

Image = NDArray[np.uint8]
"""Image of shape (H, W, C)."""

OCCLUSION_EVALUATIONS = 49
"""Number of masked images by default: a grid of 7 by 7 squares, each a quarter of the image's
side, in steps of an eighth."""


def mean_colour(image_hwc: Image) -> NDArray[np.float32]:
    """Return the mean of each channel: (C,)."""
    colour: NDArray[np.float32] = image_hwc.mean((0, 1), dtype=np.float64).astype(np.float32)
    return colour


def occlude(image_hwc: Image, evaluations: int = OCCLUSION_EVALUATIONS) -> Image:
    """Hide a square at each grid position: (P, H, W, C), P a square number up to `evaluations`.

    Neighbours overlap by half (Zeiler & Fergus, 2014, section 4.2).

    Raises:
        ValueError: fewer than 4 evaluations, which are too few for a map.
    """
    places = math.isqrt(evaluations)
    if places < 2:
        raise ValueError("occlusion takes 4 evaluations or more")
    height, width, _ = image_hwc.shape
    colour = np.rint(mean_colour(image_hwc)).astype(np.uint8)
    rows, columns = _edges(height, places), _edges(width, places)
    hidden = np.repeat(image_hwc[None], places * places, axis=0)
    for row in range(places):
        for column in range(places):
            place = hidden[row * places + column]
            place[rows[row] : rows[row + 2], columns[column] : columns[column + 2]] = colour
    return hidden


def occlusion_map(logit: float, hidden_logits: ArrayLike) -> NDArray[np.float32]:
    """Return the drop of the logit at each cell, averaged over the squares that cover it: (h, w).

    `hidden_logits` are the logits of `occlude`'s images in their order. A grid of P by P squares
    gives P + 1 by P + 1 cells.
    """
    places = math.isqrt(np.size(hidden_logits))
    drops = logit - np.asarray(hidden_logits, np.float64).reshape(places, places)
    cells = places + 1
    total, count = np.zeros((cells, cells)), np.zeros((cells, cells))
    for down in (0, 1):
        for right in (0, 1):
            part = np.s_[down : down + places, right : right + places]
            total[part] += drops
            count[part] += 1
    return (total / count).astype(np.float32)


def strongest_channels(features_chw: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Return the indices of at most `most` channels that are not constant, by falling variance."""
    deviations = features_chw.std((1, 2))
    order = np.argsort(-deviations, kind="stable")
    return order[: min(most, int((deviations > 0).sum()))]


def unveil(
    image_hwc: Image, features_chw: NDArray[np.float32], colour: NDArray[np.float32] | None = None
) -> Image:
    """Mask the image with each channel: (K, h, w) -> (K, H, W, C).

    The image is visible where the channel is active, and replaced by `colour` elsewhere. A channel
    is scaled to the range 0 to 1 and interpolated to the image's size (Score-CAM, Wang et al.,
    2020, eq. 5 to 7). The default of `colour` is the image's mean. No channel may be constant.
    """
    height, width, _ = image_hwc.shape
    low = features_chw.min((1, 2), keepdims=True)
    scaled = (features_chw - low) / (features_chw.max((1, 2), keepdims=True) - low)
    down, across = (
        bilinear(cells, size)
        for cells, size in zip(features_chw.shape[1:], (height, width), strict=True)
    )
    masks_chw1 = (down @ scaled @ across.T)[..., None]
    base = mean_colour(image_hwc) if colour is None else colour
    blended: Image = np.rint(base + (image_hwc - base) * masks_chw1).clip(0, 255).astype(np.uint8)
    return blended


def score_cam(features_chw: NDArray[np.float32], unveiled_logits: ArrayLike) -> NDArray[np.float32]:
    """Sum the channels, weighted by the softmax of their logits (eq. 8 to 10): (h, w)."""
    scores = np.asarray(unveiled_logits, np.float64)
    if not scores.size:  # no channel varies in a blank image
        return np.zeros(features_chw.shape[1:], np.float32)
    powers = np.exp(scores - scores.max())
    weighted = np.einsum("c,chw->hw", powers / powers.sum(), features_chw.astype(np.float64))
    supporting: NDArray[np.float32] = np.maximum(weighted, 0).astype(np.float32)
    return supporting


def _edges(size: int, places: int) -> list[int]:
    """Return the `places` + 2 edges of the squares: square i extends from edge i to edge i + 2."""
    return [round(at * size / (places + 1)) for at in range(places + 2)]
