"""A run as a classifier in this process: what its export would answer, before calibration."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from limelight.artifact.manifest import LAYERCAMS
from limelight.classifier import LocalClassifier
from limelight.explanations.methods import supported
from limelight.imaging.image_rule import ImageRule
from models.calibrator import Calibrator
from models.serving_graph import ServingGraph, find_layercam_stage
from pipeline.errors import RunError
from pipeline.runs.run import Run

VERSION = "run"
"""What the answers of a run have in place of an artefact's version."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunDescription:
    """Description of a run's model. Without an export there are no thresholds for flags."""

    name: str
    classes: tuple[str, ...]
    image: ImageRule
    methods: tuple[str, ...]
    version: str = VERSION
    abstention: None = None
    out_of_distribution: None = None


def classifier_of(run: Run) -> LocalClassifier:
    """Make a classifier of a run's network, on the CPU, without calibration."""
    network, config = _RunNetwork(run), run.config
    description = RunDescription(
        # Without its folder, as in an export.
        name=run.folder.resolve().name,
        classes=config.classes,
        image=config.image,
        methods=supported(network.outputs),
    )
    return LocalClassifier(network, description)


class _RunNetwork:
    """The graphs that an export would write, run by torch."""

    def __init__(self, run: Run) -> None:
        self._folder = run.folder
        network, normalisation, image = run.network, run.config.normalisation, run.config.image
        blank = torch.zeros(2, image.height, image.width, image.channels, dtype=torch.uint8)
        stage = find_layercam_stage(network, normalisation, blank)
        graph = partial(ServingGraph, network, normalisation, Calibrator())
        self._graph = graph().eval()
        self._layercam_graph: ServingGraph | None = None
        if stage is not None:
            self._layercam_graph = graph(stage=stage).eval()

    @property
    def outputs(self) -> frozenset[str]:
        """Names of all outputs."""
        return frozenset((self._layercam_graph or self._graph).outputs)

    def run(
        self, images_nhwc: NDArray[np.uint8], outputs: Sequence[str]
    ) -> dict[str, NDArray[np.float32]]:
        """Run a forward pass: uint8 (N, H, W, C) -> each of `outputs` by name, N first.

        Raises:
            RunError: values are not finite.

        """
        graph = self._graph
        if LAYERCAMS in outputs and self._layercam_graph is not None:
            graph = self._layercam_graph  # only on request: it takes ten times as long
        with torch.inference_mode():
            tensors = graph(torch.tensor(images_nhwc))
        found = dict(zip(graph.outputs, tensors, strict=True))
        arrays = {name: found[name].numpy() for name in outputs}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise RunError(
                f"{self._folder} gave values that are not finite: train again with a lower --lr"
            )
        return arrays
