"""Deletion and insertion of pixels in the order of a map (RISE, Petsiuk et al., 2018)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFilter

from limelight.explanations.masking import mean_colour
from limelight.imaging.preprocessing import picture_of
from pipeline.evaluation.graph_inference import Images, Infer, infer_output
from pipeline.evaluation.maps.served_maps import Maps, enlarged, ranks_of

STEPS = 16
"""Steps of deletion and insertion, from no pixel changed to all."""
# Insertion starts from a blurred image; the blur's radius is this share of the longest side.
_BLUR = 0.125


def deletion(
    infer: Infer, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> NDArray[np.float64]:
    """Measure the area under the class's probability while pixels get the mean colour, (N,).

    Pixels with the highest map values change first (section 4.2). Lower is better.
    """
    empty = np.stack([np.broadcast_to(mean_colour(image), image.shape) for image in images])
    return _area(infer, images, empty, classes, maps)


def insertion(
    infer: Infer, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> NDArray[np.float64]:
    """Measure the area under the class's probability while a blurred image becomes sharp, (N,).

    Pixels with the highest map values change first, as for `deletion`. Higher is better.
    """
    return _area(infer, np.stack([_blurred(image) for image in images]), images, classes, maps)


def _area(
    infer: Infer,
    before: NDArray[np.generic],
    after: NDArray[np.generic],
    classes: NDArray[np.int64],
    maps: Sequence[Maps],
) -> NDArray[np.float64]:
    """Integrate the classes' probabilities, by the trapezoidal rule, from `before` to `after`."""
    height, width = before.shape[1:3]
    ranks = np.stack([ranks_of(enlarged(map_hw, height, width)) for map_hw in maps])
    rows, curve = np.arange(len(classes)), []
    for step in range(STEPS + 1):
        changed = (ranks < step / STEPS)[..., None]
        images = np.rint(np.where(changed, after, before)).astype(np.uint8)
        probabilities = infer_output(infer, images, "probabilities")
        curve.append(probabilities[rows, classes].astype(np.float64))
    area: NDArray[np.float64] = np.trapezoid(np.stack(curve), dx=1 / STEPS, axis=0)
    return area


def _blurred(image_hwc: Images) -> Images:
    image = picture_of(image_hwc)
    blurred = image.filter(ImageFilter.GaussianBlur(_BLUR * max(image.size)))
    return np.asarray(blurred).reshape(image_hwc.shape)
