"""Explanation methods that evaluate masked images."""

import numpy as np
from numpy.typing import NDArray

from limelight.explanations import perturbation
from limelight.explanations.map_request import MapRequest


async def occlusion(request: MapRequest) -> NDArray[np.float32]:
    """Return the drop of the class's logit when each part of the image is hidden."""
    most = min(request.max_evaluations, perturbation.OCCLUSION_EVALUATIONS)
    logits = await _logits(request, perturbation.occlude(request.pixels_hwc, most))
    return perturbation.occlusion_map(float(request.outputs["logits"][request.index]), logits)


async def score_cam(request: MapRequest) -> NDArray[np.float32]:
    """Return the Score-CAM map, computed from the channels that vary most."""
    features_chw = request.outputs["features"]
    chosen = perturbation.strongest_channels(features_chw, request.max_evaluations)
    features_chw = features_chw[chosen]
    logits = await _logits(request, perturbation.unveil(request.pixels_hwc, features_chw))
    return perturbation.score_cam(features_chw, logits)


async def _logits(request: MapRequest, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Evaluate masked images and return the logit of the class on each: (N,)."""
    request.evaluations += len(images_nhwc)
    if not len(images_nhwc):  # no channel varies in a blank image
        return np.zeros(0, np.float32)
    return (await request.evaluate(images_nhwc))[:, request.index]
