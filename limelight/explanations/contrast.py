"""Contrast: what supports one class more than another."""

import numpy as np
from numpy.typing import NDArray

from limelight.explanations.map_request import MapRequest


async def contrast_map(request: MapRequest) -> NDArray[np.float32]:
    """Return the class activation map of the class minus that of `against`."""
    cams_khw = request.outputs["cams"]
    difference: NDArray[np.float32] = cams_khw[request.index] - cams_khw[request.against]
    return difference
