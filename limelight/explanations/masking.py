"""Masked images: what occlusion and Score-CAM have in common.

Both mask the image and evaluate it again; no gradients are needed. Masking blends pixels with the
image's mean colour, which carries the least information.
"""

import numpy as np
from numpy.typing import NDArray

from limelight.explanations.map_request import MapRequest

Image = NDArray[np.uint8]
"""Image of shape (H, W, C)."""


def mean_colour(image_hwc: Image) -> NDArray[np.float32]:
    """Return the mean of each channel: (C,)."""
    colour: NDArray[np.float32] = image_hwc.mean((0, 1), dtype=np.float64).astype(np.float32)
    return colour


async def logits_of(request: MapRequest, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Evaluate masked images and return the logit of the class on each: (N,)."""
    request.evaluations += len(images_nhwc)
    if not len(images_nhwc):  # no channel varies in a blank image
        return np.zeros(0, np.float32)
    return (await request.evaluate(images_nhwc))[:, request.index]
