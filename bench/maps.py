"""Cost of a map, ours beside torchcam's and pytorch-grad-cam's, of the same network.

`python -m bench.maps` times forward passes without a map, with the map of the winner and with the
maps of every class; on one thread and on all, one image and 64, the ways of one table in turns. The
peers run in PyTorch, as their documentation shows them, and the network is there out of the same
artefact. Each way begins with the pixels of a batch, and ends with what its library gives.
"""

import argparse
import copy
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pytorch_grad_cam import GradCAM
from torch import Tensor
from torchcam import methods as torchcam

from bench.common import ROOT
from bench.common.report import Report
from bench.common.spread import Spread
from bench.common.turns import take_turns
from limelight.artifact.store import load_artifact, newest_version
from limelight.imaging.preprocessing import prepare
from limelight.runtime.engine import Engine
from models import ClassMapNetwork
from pipeline.runs.exported import read_trained
from service.settings import Settings

EXAMPLES = {"cifar10": "cat.png", "digits": "seven.png"}
_PRECISION = 1e-3
_HEADS = (
    "way", "runs on", "maps an image", "ms", "× no map, same runtime", "× no map, ONNX Runtime",
)  # fmt: skip


class NotTheSameError(Exception):
    """The two runtimes answer differently."""


@dataclass(frozen=True, slots=True)
class Way:
    """One way to get the maps of a batch."""

    name: str
    runtime: str
    maps: int
    """Number of maps of each image: none, one class's, or every class's."""


Ways = dict[Way, Callable[[], object]]


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
        with Image.open(ROOT / "examples" / EXAMPLES[model]) as photo:
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
        """The input of torch's network: the pixels, normalised."""
        return self._normalise(torch.from_numpy(self.images_nhwc))


def ways_of(subject: Subject) -> Ways:
    """Each runtime without a map, then the winner's map and every class's, by each library."""
    engine, images, every = subject.engine, subject.images_nhwc, subject.classes
    ours, torchs, network = "ONNX Runtime", "PyTorch", subject.network()

    def forward() -> object:
        with torch.inference_mode():
            return network(subject.input()).softmax(1)

    grad_cam_network = subject.network()
    grad_cam = GradCAM(grad_cam_network, [grad_cam_network.features])
    return {
        Way("no map", ours, 0): lambda: engine.run(images, ["probabilities"]),
        Way("no map", torchs, 0): forward,
        Way("Limelight, CAM", ours, every): lambda: engine.run(images, ["probabilities", "cams"]),
        **{
            Way(f"torchcam, {name}", torchs, maps): _torchcam(
                subject, gradients=name == "Grad-CAM", every_class=maps > 1
            )
            for name, maps in product(("CAM", "Grad-CAM"), (1, every))
        },
        # Without targets it explains the winners.
        Way("pytorch-grad-cam, Grad-CAM", torchs, 1): lambda: [grad_cam(subject.input(), None)],
    }


def _torchcam(subject: Subject, *, gradients: bool, every_class: bool) -> Callable[[], object]:
    network = subject.network()
    extractor: Any = torchcam.CAM(network, "features", "head.linear")
    if gradients:
        extractor = torchcam.GradCAM(network, "features")

    def run() -> object:
        with torch.inference_mode(not gradients):
            logits = network(subject.input())
        asked = range(logits.shape[1]) if every_class else [logits.argmax(1).tolist()]
        more = {"scores": logits, "retain_graph": every_class} if gradients else {}
        return [extractor(class_idx=each, **more) for each in asked]

    return run


def rows_of(times: dict[Way, list[float]]) -> list[tuple[str, ...]]:
    """A row for each way, beside the plain forward passes; ratios are of the same repeat."""
    plain = {way.runtime: found for way, found in times.items() if way.maps == 0}
    return [
        (
            way.name,
            way.runtime,
            str(way.maps),
            Spread.of(1000 * each_s for each_s in found).shown(lambda ms: f"{ms:.3g}"),
            ratios(found, plain[way.runtime]).shown(),
            ratios(found, plain["ONNX Runtime"]).shown(),
        )
        for way, found in times.items()
    ]


def ratios(times: Sequence[float], base: Sequence[float]) -> Spread:
    """Each time as a multiple of the base's, repeat by repeat."""
    return Spread.of(one / other for one, other in zip(times, base, strict=True))


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m bench.maps", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(EXAMPLES), default=list(EXAMPLES))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.3, help="of each timing")
    parser.add_argument("--to", type=Path, default=Path("build"), help="folder of the report")
    given = parser.parse_args()
    report = Report("maps", {"repeats": given.repeats, "seconds": given.seconds})
    threads_of = sorted({1, len(os.sched_getaffinity(0))})
    for model, threads, batch in product(given.models, threads_of, given.batches):
        torch.set_num_threads(threads)
        ways = ways_of(Subject(model, batch=batch, threads=threads))
        times = take_turns(ways, repeats=given.repeats, seconds=given.seconds)
        title = f"{model}, batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
        report.say(title)
        report.add_table(title, _HEADS, rows_of(times), left=2)
        report.measurements[title] = [
            {"way": way.name, "runs on": way.runtime, "maps": way.maps, "seconds": found}
            for way, found in times.items()
        ]
    return report.finish(given.to)


if __name__ == "__main__":
    sys.exit(main())
