"""Maps out of masked images, which the network looks at like any others."""

import numpy as np
from numpy.typing import NDArray

from service import perturbation
from service.batching import Batcher, Row
from service.calls import Call
from service.manifest import Method

MASKING: tuple[Method, ...] = ("occlusion", "scorecam")
"""The methods that look many times."""


async def masked_map(
    batcher: Batcher,
    method: Method,
    pixels_hwc: NDArray[np.uint8],
    outputs: Row,
    index: int,
    *,
    most: int,
    call: Call,
) -> tuple[NDArray[np.float32], int]:
    """The map of one class by a method of `MASKING`, and how many images were looked at for it.

    Args:
        batcher: runs the masked images.
        method: how they are masked.
        pixels_hwc: the image as the network takes it.
        outputs: what the network gave for it: `logits` for occlusion, `features` for Score-CAM.
        index: the class.
        most: at most so many masked images.
        call: the request.

    Raises:
        ServiceError: there is no room for so many, or no time.
    """
    if method == "occlusion":
        masked = perturbation.occlude(pixels_hwc, min(most, perturbation.OCCLUSION_PASSES))
        logits = await _logits(batcher, masked, index, call)
        values_hw = perturbation.occlusion_map(float(outputs["logits"][index]), logits)
        return values_hw, len(masked) + 1
    features_chw = outputs["features"]
    features_chw = features_chw[perturbation.strongest_channels(features_chw, most)]
    masked = perturbation.unveil(pixels_hwc, features_chw)
    logits = await _logits(batcher, masked, index, call)
    return perturbation.score_cam(features_chw, logits), len(masked) + 1


async def _logits(
    batcher: Batcher, images_nhwc: NDArray[np.uint8], index: int, call: Call
) -> list[float]:
    if not len(images_nhwc):  # of a blank image no channel is worth a look
        return []
    with batcher.place(call, spare=True, images=len(images_nhwc)):
        found = await batcher.submit_all(images_nhwc, ("logits",), call)
    return [float(logit) for logit in found["logits"][:, index]]
