"""Maps of many images, computed by the same code as in the service."""

import sys

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from limelight.artifact.field_types import Method
from limelight.coroutines import finish
from limelight.explanations.interpolation import bilinear
from limelight.explanations.map_request import MapRequest
from limelight.explanations.methods import METHODS
from pipeline.evaluation.graph_inference import Images, Infer, infer_output

Maps = NDArray[np.float32]

# An export measures a method with all the masked images that it wants.
_UNLIMITED = sys.maxsize


def maps_of(
    infer: Infer, images_nhwc: Images, classes: NDArray[np.int64], method: Method
) -> list[Maps]:
    """Compute each image's map of its class in `classes`, (N,), at the method's own resolution.

    Raises:
        ValueError: the method is `contrast`, which is a difference of two maps.

    """
    entry = METHODS[method]
    if entry.contrasts:
        raise ValueError(f"{method} is not a map of one class")
    outputs = infer_output(infer, images_nhwc, entry.output)
    if entry.every_class:
        return list(outputs[np.arange(len(classes)), classes])

    async def evaluate(masked_nhwc: Images) -> NDArray[np.float32]:
        return infer_output(infer, masked_nhwc, "logits")

    requests = (
        MapRequest(image_hwc, {entry.output: row}, int(label), None, _UNLIMITED, evaluate)
        for image_hwc, row, label in zip(images_nhwc, outputs, classes, strict=True)
    )
    return [finish(entry.explain(request)) for request in requests]


def enlarged(map_hw: Maps, height: int, width: int) -> Maps:
    """Enlarge a map to the image's size: (h, w) -> (height, width)."""
    rows, columns = map_hw.shape
    full = bilinear(rows, height) @ map_hw @ bilinear(columns, width).T
    return full.astype(np.float32, copy=False)


def ranks_of(map_hw: Maps) -> NDArray[np.float64]:
    """Rank positions: 0 at the highest value, close to 1 at the lowest; ties in reading order."""
    ordinals: NDArray[np.float64] = rankdata(-map_hw, method="ordinal").reshape(map_hw.shape)
    return (ordinals - 1) / map_hw.size
