"""Maps out of masked images, which the network evaluates like any others."""

import numpy as np
from numpy.typing import NDArray

from limelight.explanations import perturbation
from limelight.explanations.map_request import MapRequest


async def occlusion(request: MapRequest) -> NDArray[np.float32]:
    """Return how much the class's logit falls where a part of the image is hidden."""
    most = min(request.most_evaluations, perturbation.OCCLUSION_EVALUATIONS)
    logits = await _logits(request, perturbation.occlude(request.pixels_hwc, most))
    return perturbation.occlusion_map(float(request.outputs["logits"][request.index]), logits)


async def score_cam(request: MapRequest) -> NDArray[np.float32]:
    """Return Score-CAM's map, of the channels that vary most."""
    features_chw = request.outputs["features"]
    chosen = perturbation.strongest_channels(features_chw, request.most_evaluations)
    features_chw = features_chw[chosen]
    logits = await _logits(request, perturbation.unveil(request.pixels_hwc, features_chw))
    return perturbation.score_cam(features_chw, logits)


async def _logits(request: MapRequest, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Of the class, on each masked image: (N,)."""
    request.evaluations += len(images_nhwc)
    if not len(images_nhwc):  # in a blank image no channel varies
        return np.zeros(0, np.float32)
    return (await request.evaluate(images_nhwc))[:, request.index]
