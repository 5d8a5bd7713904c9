"""Score-CAM (Wang et al., 2020): the network's channels, weighted by what each shows on its own."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from limelight.explanations.interpolation import bilinear
from limelight.explanations.map_request import MapRequest
from limelight.explanations.masking import Image, logits_of, mean_colour


async def scorecam(request: MapRequest) -> NDArray[np.float32]:
    """Return the Score-CAM map, computed from the channels that vary most."""
    features_chw = request.outputs["features"]
    features_chw = features_chw[strongest_channels(features_chw, request.max_evaluations)]
    masked = await request.compute(lambda: unveil(request.pixels_hwc, features_chw))
    return score_cam(features_chw, await logits_of(request, masked))


def strongest_channels(features_chw: NDArray[np.float32], most: int) -> NDArray[np.int64]:
    """Return the indices of at most `most` channels that are not constant, by falling variance."""
    deviations = features_chw.std((1, 2))
    order = np.argsort(-deviations, kind="stable")
    return order[: min(most, int((deviations > 0).sum()))]


def unveil(
    image_hwc: Image, features_chw: NDArray[np.float32], colour: NDArray[np.float32] | None = None
) -> Image:
    """Mask the image with each channel: (K, h, w) -> (K, H, W, C).

    The image is visible where the channel is active, and replaced by `colour` elsewhere. A channel
    is scaled to the range 0 to 1 and interpolated to the image's size (Score-CAM, Wang et al.,
    2020, eq. 5 to 7). The default of `colour` is the image's mean. No channel may be constant.
    """
    height, width, _ = image_hwc.shape
    low = features_chw.min((1, 2), keepdims=True)
    scaled = (features_chw - low) / (features_chw.max((1, 2), keepdims=True) - low)
    down, across = (
        bilinear(cells, size)
        for cells, size in zip(features_chw.shape[1:], (height, width), strict=True)
    )
    base = mean_colour(image_hwc) if colour is None else colour
    difference_hwc = image_hwc - base
    blended: Image = np.empty((len(scaled), *image_hwc.shape), np.uint8)
    # One mask at a time: all of them would take ten times the memory of the result.
    for masked_hwc, cells in zip(blended, scaled, strict=True):
        mask_hw1 = (down @ cells @ across.T)[..., None]
        masked_hwc[...] = np.rint(base + difference_hwc * mask_hw1).clip(0, 255)
    return blended


def score_cam(features_chw: NDArray[np.float32], unveiled_logits: ArrayLike) -> NDArray[np.float32]:
    """Sum the channels, weighted by the softmax of their logits (eq. 8 to 10): (h, w)."""
    scores = np.asarray(unveiled_logits, np.float64)
    if not scores.size:  # no channel varies in a blank image
        return np.zeros(features_chw.shape[1:], np.float32)
    powers = np.exp(scores - scores.max())
    weighted = np.einsum("c,chw->hw", powers / powers.sum(), features_chw.astype(np.float64))
    supporting: NDArray[np.float32] = np.maximum(weighted, 0).astype(np.float32)
    return supporting
