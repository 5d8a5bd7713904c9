"""What a class depends on, found by masking the image and looking again: no gradients needed.

A method gives images to look at and, from the logits of one class on each, a map. Masking blends
pixels into the image's mean colour, which tells the network least.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limelight.explanations.interpolation import bilinear

Image = NDArray[np.uint8]
"""(H, W, C)."""

OCCLUSION_EVALUATIONS = 49
"""Seven by seven places: each quarter of the image's side, in steps of an eighth."""


def mean_colour(image_hwc: Image) -> NDArray[np.float32]:
    """Of each channel: (C,)."""
    colour: NDArray[np.float32] = image_hwc.mean((0, 1), dtype=np.float64).astype(np.float32)
    return colour


def occlude(image_hwc: Image, evaluations: int = OCCLUSION_EVALUATIONS) -> Image:
    """Hide a square at every place of a grid: (P, H, W, C), P a square number up to `evaluations`.

    Neighbours overlap by half (Zeiler & Fergus, 2014, section 4.2).

    Raises:
        ValueError: fewer than 4 evaluations, which make no map.
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
    """How far hiding a cell lowers the logit, mean of the squares over it: (P+1, P+1) cells.

    `hidden_logits` are those of `occlude`'s images, in their order.
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
    """Indices of at most `most` channels that are not constant, those that vary most first."""
    deviations = features_chw.std((1, 2))
    order = np.argsort(-deviations, kind="stable")
    return order[: min(most, int((deviations > 0).sum()))]


def unveil(
    image_hwc: Image, features_chw: NDArray[np.float32], colour: NDArray[np.float32] | None = None
) -> Image:
    """For each channel, the image where it is active and `colour` elsewhere: (C, H, W, C3).

    A channel is scaled to 0 to 1 and interpolated to the image's size (Score-CAM, Wang et al.,
    2020, eq. 5 to 7). `colour` is the image's mean by default. No channel may be constant.
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
    """Channels weighted by the softmax of what each brought on its own (eq. 8 to 10): (h, w)."""
    scores = np.asarray(unveiled_logits, np.float64)
    if not scores.size:  # a blank image: no channel varies
        return np.zeros(features_chw.shape[1:], np.float32)
    powers = np.exp(scores - scores.max())
    weighted = np.einsum("c,chw->hw", powers / powers.sum(), features_chw.astype(np.float64))
    supporting: NDArray[np.float32] = np.maximum(weighted, 0).astype(np.float32)
    return supporting


def _edges(size: int, places: int) -> list[int]:
    """Where each square begins and, two further on, ends: `places` + 2 of them."""
    return [round(at * size / (places + 1)) for at in range(places + 2)]
