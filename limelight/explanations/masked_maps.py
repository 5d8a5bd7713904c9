"""Maps out of masked images, which the network evaluates like any others."""

from collections.abc import Awaitable, Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import Method
from limelight.explanations import perturbation

MASKING: tuple[Method, ...] = ("occlusion", "scorecam")
"""The methods that evaluate many images."""

Evaluate = Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]]
"""Masked images, uint8 (N, H, W, C), to the logits of each: (N, K)."""


async def masked_map(
    evaluate: Evaluate,
    method: Method,
    pixels_hwc: NDArray[np.uint8],
    outputs: Mapping[str, NDArray[np.float32]],
    index: int,
    *,
    most: int,
) -> tuple[NDArray[np.float32], int]:
    """Return the map of one class by a method of `MASKING`, and how many images were evaluated.

    Args:
        evaluate: runs the masked images.
        method: how they are masked.
        pixels_hwc: the image as the network takes it.
        outputs: what the network gave for it: `logits` for occlusion, `features` for Score-CAM.
        index: the class.
        most: at most so many masked images.

    """
    if method == "occlusion":
        masked = perturbation.occlude(pixels_hwc, min(most, perturbation.OCCLUSION_EVALUATIONS))
        logits = (await evaluate(masked))[:, index]
        return perturbation.occlusion_map(float(outputs["logits"][index]), logits), len(masked) + 1
    features_chw = outputs["features"]
    features_chw = features_chw[perturbation.strongest_channels(features_chw, most)]
    masked = perturbation.unveil(pixels_hwc, features_chw)
    # Of a blank image no channel varies.
    logits = (await evaluate(masked))[:, index] if len(masked) else np.zeros(0, np.float32)
    return perturbation.score_cam(features_chw, logits), len(masked) + 1
