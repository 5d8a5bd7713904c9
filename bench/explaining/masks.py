"""Maps of the winner out of many masked images: ours and the peers'."""

import contextlib
import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchcam import methods as torchcam

from bench.explaining.subject import Subject, Way, plain, with_onnxruntime, with_torch
from limelight.explanations import perturbation
from limelight.runtime.engine import Engine
from service.settings import Settings

# As many images as one pass has in the service, and as torchcam's own default.
_BATCH = 32


def ways_of_masks(subject: Subject) -> list[Way]:
    """Those for a batch of one."""
    (pixels_hwc,) = subject.images_nhwc
    first = subject.engine.run(subject.images_nhwc, ["logits", "features"])
    index, channels = int(first["logits"][0].argmax()), first["features"].shape[1]
    chosen = len(perturbation.strongest_channels(first["features"][0], _most_passes()))
    occlusions = perturbation.OCCLUSION_EVALUATIONS

    def occlusion() -> object:
        found = subject.engine.run(subject.images_nhwc, ["probabilities", "logits"])
        masked = perturbation.occlude(pixels_hwc)
        logit = float(found["logits"][0, index])
        return perturbation.occlusion_map(logit, _logits(subject.engine, masked, index))

    def score_cam() -> object:
        found = subject.engine.run(subject.images_nhwc, ["probabilities", "features"])
        features_chw = found["features"][0]
        strongest = perturbation.strongest_channels(features_chw, _most_passes())
        features_chw = features_chw[strongest]
        masked = perturbation.unveil(pixels_hwc, features_chw)
        return perturbation.score_cam(features_chw, _logits(subject.engine, masked, index))

    return [
        *plain(subject),
        with_onnxruntime("Limelight, occlusion", 1, occlusions + 1, occlusion),
        with_onnxruntime("Limelight, Score-CAM", 1, chosen + 1, score_cam),
        # The first look, and one more for the score that it subtracts.
        with_torch("torchcam, Score-CAM", 1, channels + 2, _torchcam_score_cam(subject, index)),
        with_torch("pytorch-grad-cam, Score-CAM", 1, channels + 1, _score_cam(subject, index)),
    ]


def _torchcam_score_cam(subject: Subject, index: int) -> Callable[[], object]:
    network = subject.network()
    extractor = torchcam.ScoreCAM(network, "features", batch_size=_BATCH)

    def run() -> object:
        with torch.inference_mode():
            network(subject.input())
            return extractor(class_idx=index)

    return run


def _score_cam(subject: Subject, index: int) -> Callable[[], object]:
    network = subject.network()
    extractor = ScoreCAM(network, [network.features])
    extractor.batch_size = _BATCH

    def run() -> object:
        # It draws a progress bar.
        with contextlib.redirect_stderr(io.StringIO()), torch.inference_mode():
            return extractor(subject.input(), [ClassifierOutputTarget(index)])

    return run


def _logits(engine: Engine, images_nhwc: NDArray[np.uint8], index: int) -> list[float]:
    """Of one class, in passes as large as the service's."""
    found: list[float] = []
    for start in range(0, len(images_nhwc), _BATCH):
        part = images_nhwc[start : start + _BATCH]
        found += engine.run(part, ["logits"])["logits"][:, index].tolist()
    return found


def _most_passes() -> int:
    return Settings().max_evaluations
