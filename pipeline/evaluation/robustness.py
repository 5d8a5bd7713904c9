"""Robustness: accuracy on corrupted images, and on images as JPEG."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.measurements import Robustness
from limelight.imaging.image_rule import ImageRule
from pipeline.data.served_images import as_served
from pipeline.data.splits import Split, stratified_sample
from pipeline.evaluation.common_corruptions.digital import compressed
from pipeline.evaluation.common_corruptions.registry import CORRUPTIONS, corrupt
from pipeline.evaluation.common_corruptions.severities import SEVERITIES, published_for
from pipeline.evaluation.graph_inference import Images, Infer, infer_output
from pipeline.progress import Progress, silent

CORRUPTED, FEWEST = 1000, 50
"""Number of images that are corrupted, and the minimum for an expensive network."""
# Multiply-accumulates of one forward pass of all images. Each image takes eighteen.
_WORK = 120e9
_BATCH_BYTES = 4 << 20

Change = Callable[[Images, int], Images]
"""Change uint8 images (N, H, W, C); the integer is a seed."""


def images_to_corrupt(multiply_accumulates: int) -> int:
    """Choose the number of images to corrupt, by the cost of one forward pass."""
    return min(CORRUPTED, max(FEWEST, int(_WORK / multiply_accumulates)))


def measure_robustness(
    infer: Infer,
    split: Split,
    rule: ImageRule,
    *,
    images: int,
    severities: int = 1,
    progress: Progress = silent,
) -> Robustness:
    """Measure the accuracy on images with each of the 15 common corruptions, and as JPEG.

    By default an image has each corruption once, at one of the five severities. These alternate
    within each class, so the mean estimates that over all severities (Hendrycks and Dietterich,
    2019). Images differ more than severities: for the same number of forward passes, more images
    make a smaller error than all severities of fewer images.

    Args:
        infer: the network as served.
        split: prepared images (N, H, W, C) and their labels; a stratified sample is taken.
        rule: image rule, which the corrupted images go through like uploads.
        images: largest number of images; see `images_to_corrupt`.
        severities: number of severities at which an image has each corruption, 1 to 5.
        progress: is told each step.

    """
    chosen = split.take(stratified_sample(split.labels, images))
    places = np.arange(len(chosen))
    # One value for each corruption, severity and image: 1 for a right answer, NaN if not shown.
    right = np.full((len(CORRUPTIONS), SEVERITIES, len(chosen)), np.nan)
    for number, name in enumerate(CORRUPTIONS):
        progress("corrupting images", number, len(CORRUPTIONS))
        for severity in range(SEVERITIES):
            at = places[(severity - number - places) % SEVERITIES < severities]
            right[number, severity, at] = _answers_right(
                infer, chosen, at, rule, _corrupting(name, severity + 1)
            )
    clean, *jpeg = (
        float(_answers_right(infer, chosen, places, rule, change).mean())
        for change in (_unchanged, _compressing(75), _compressing(50))
    )
    by_image = np.nanmean(right, (0, 1))
    return Robustness(
        images=len(chosen),
        severities=severities,
        parameters=published_for(*chosen.images.shape[1:3]),
        clean_accuracy=clean,
        mean_accuracy=float(by_image.mean()),
        standard_error=float(by_image.std() / math.sqrt(len(by_image))),
        corruptions=dict(zip(CORRUPTIONS, np.nanmean(right, (1, 2)).tolist(), strict=True)),
        by_severity=tuple(np.nanmean(right, (0, 2)).tolist()),
        jpeg_75=jpeg[0],
        jpeg_50=jpeg[1],
    )


def _answers_right(
    infer: Infer, split: Split, at: NDArray[np.int64], rule: ImageRule, change: Change
) -> NDArray[np.bool_]:
    """Tell for each changed image of `at`, (M,), whether its class is predicted: (M,)."""
    size = max(1, _BATCH_BYTES // math.prod(split.images.shape[1:]))
    right = [np.zeros(0, np.bool_)]
    for start in range(0, len(at), size):
        some = at[start : start + size]
        changed = as_served(change(split.images[some], start), rule)
        right.append(infer_output(infer, changed, "probabilities").argmax(1) == split.labels[some])
    return np.concatenate(right)


def _corrupting(name: str, severity: int) -> Change:
    return lambda images, seed: corrupt(images, name, severity, seed=seed)


def _compressing(quality: int) -> Change:
    return lambda images, _: compressed(images, quality)


def _unchanged(images_nhwc: Images, seed: int) -> Images:
    return images_nhwc
