"""Maps out of one pass, or of one pass and its gradients: ours and the peers', as they document it.

Each begins with the pixels of a batch, uint8 (N, H, W, C), and ends with what its library gives.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor
from torchcam import methods as torchcam

from bench.explaining.subject import Subject, Way, plain, with_onnxruntime, with_torch


def ways_of_one_pass(subject: Subject) -> list[Way]:
    """The winner's map and every class's, by each library that gives them."""
    engine, images, every = subject.engine, subject.images_nhwc, subject.classes
    return [
        *plain(subject),
        with_onnxruntime(
            "Limelight, CAM", every, 1, lambda: engine.run(images, ["probabilities", "cams"])
        ),
        with_torch("Limelight's head, CAM", every, 1, _our_head(subject)),
        with_torch("torchcam, CAM", 1, 1, _torchcam_cam(subject)),
        with_torch("torchcam, CAM", every, 1, _torchcam_cam(subject, every_class=True)),
        with_torch("torchcam, Grad-CAM", 1, 1, _torchcam_grad_cam(subject)),
        with_torch("torchcam, Grad-CAM", every, 1, _torchcam_grad_cam(subject, every_class=True)),
        with_torch("pytorch-grad-cam, Grad-CAM", 1, 1, _grad_cam(subject)),
        with_torch(
            "pytorch-grad-cam, Grad-CAM", every, every, _grad_cam(subject, every_class=True)
        ),
    ]


def _our_head(subject: Subject) -> Callable[[], object]:
    network = subject.network()

    def run() -> object:
        with torch.inference_mode():
            features = network.features(subject.input())
            probabilities = network.head(features).softmax(1)
            return probabilities, network.head.class_activation_maps(features)

    return run


def _torchcam_cam(subject: Subject, *, every_class: bool = False) -> Callable[[], object]:
    network = subject.network()
    extractor = torchcam.CAM(network, "features", "head.linear")

    def run() -> object:
        with torch.inference_mode():
            logits = network(subject.input())
        return [extractor(class_idx=each) for each in _asked(logits, every_class)]

    return run


def _torchcam_grad_cam(subject: Subject, *, every_class: bool = False) -> Callable[[], object]:
    network = subject.network()
    extractor = torchcam.GradCAM(network, "features")

    def run() -> object:
        logits = network(subject.input())
        return [
            extractor(class_idx=each, scores=logits, retain_graph=every_class)
            for each in _asked(logits, every_class)
        ]

    return run


def _asked(logits: Tensor, every_class: bool) -> Sequence[int | list[int]]:
    """What a torchcam extractor is called with, once for each map of an image."""
    if every_class:
        return range(logits.shape[1])
    winners: list[int] = logits.argmax(1).tolist()
    return [winners]


def _grad_cam(subject: Subject, *, every_class: bool = False) -> Callable[[], object]:
    network, batch = subject.network(), len(subject.images_nhwc)
    extractor = GradCAM(network, [network.features])
    # Without targets it explains the winners.
    asked: list[list[Any] | None] = (
        [[ClassifierOutputTarget(index)] * batch for index in range(subject.classes)]
        if every_class
        else [None]
    )
    return lambda: [extractor(subject.input(), targets) for targets in asked]
