"""A shipped model in two runtimes, a batch for it, and what a way to its maps is."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from limelight.artifact.store import load_artifact, newest_version
from limelight.imaging.preprocessing import prepare
from limelight.runtime.engine import Engine
from models import ClassMapNetwork
from pipeline.runs.exported import read_trained
from service.settings import Settings

Runtime = Literal["ONNX Runtime", "PyTorch"]
EXAMPLES = {"cifar10": "cat.png", "digits": "seven.png"}
_FOLDER = Path(__file__).parents[2] / "examples"
_PRECISION = 1e-3


class NotTheSameError(Exception):
    """The two runtimes answer differently: what follows would compare nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way, ready to be timed."""

    name: str
    runtime: Runtime
    maps: int
    """Of each image: none, one class's, or every class's."""
    images: int
    """That the network looks at for each image of the batch; gradients are not counted."""
    run: Callable[[], Any]


class Subject:
    """A shipped model in both runtimes, and a batch: an example image, shifted by some pixels.

    Raises:
        NotTheSameError: their logits differ.
    """

    def __init__(self, model: str, *, batch: int, threads: int) -> None:
        folder = newest_version(Settings().models / model)
        trained = read_trained(folder)
        self.engine = Engine(load_artifact(folder), device="cpu", threads=threads)
        self.classes = len(trained.manifest.classes)
        with Image.open(_FOLDER / EXAMPLES[model]) as photo:
            pixels_hwc, _ = prepare(photo, trained.manifest.image)
        self.images_nhwc = np.stack([np.roll(pixels_hwc, shift, 1) for shift in range(batch)])
        self._network = trained.network
        self._normalise = trained.normalisation.on(torch.device("cpu"))
        logits = self.engine.run(self.images_nhwc, ["logits"])["logits"]
        with torch.inference_mode():
            difference = np.abs(self._network(self.input()).numpy() - logits).max()
        if difference > _PRECISION:
            raise NotTheSameError(f"{model}: torch's logits differ by {difference}")

    def network(self) -> ClassMapNetwork:
        """A copy, since the peers leave hooks in theirs; its weights lie as the pixels do."""
        return copy.deepcopy(self._network).to(memory_format=torch.channels_last)

    def input(self) -> Tensor:
        """What torch's network is given: the pixels, normalised."""
        return self._normalise(torch.from_numpy(self.images_nhwc))


def plain(subject: Subject) -> list[Way]:
    """What the others are held against: each runtime without a map."""
    network = subject.network()

    def forward() -> object:
        with torch.inference_mode():
            return network(subject.input()).softmax(1)

    images = subject.images_nhwc
    return [
        with_onnxruntime("no map", 0, 1, lambda: subject.engine.run(images, ["probabilities"])),
        with_torch("no map", 0, 1, forward),
    ]


def with_onnxruntime(name: str, maps: int, images: int, run: Callable[[], object]) -> Way:
    """A way of ours."""
    return Way(name=name, runtime="ONNX Runtime", maps=maps, images=images, run=run)


def with_torch(name: str, maps: int, images: int, run: Callable[[], object]) -> Way:
    """A way of eager torch."""
    return Way(name=name, runtime="PyTorch", maps=maps, images=images, run=run)
