"""Occlusion: how much the logit of a class falls when a part of the image is hidden."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limelight.explanations.map_request import MapRequest
from limelight.explanations.masking import Image, logits_of, mean_colour

OCCLUSION_EVALUATIONS = 49
"""Number of masked images by default: a grid of 7 by 7 squares, each a quarter of the image's
side, in steps of an eighth."""


async def occlusion(request: MapRequest) -> NDArray[np.float32]:
    """Return the drop of the class's logit when each part of the image is hidden."""
    most = min(request.max_evaluations, OCCLUSION_EVALUATIONS)
    masked = await request.compute(lambda: occlude(request.pixels_hwc, most))
    logits = await logits_of(request, masked)
    return occlusion_map(float(request.outputs["logits"][request.index]), logits)


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


def _edges(size: int, places: int) -> list[int]:
    """Return the `places` + 2 edges of the squares: square i extends from edge i to edge i + 2."""
    return [round(at * size / (places + 1)) for at in range(places + 2)]
