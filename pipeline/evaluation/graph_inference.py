"""Outputs of the serving graph for many images, in torch or by an engine."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from models import ClassMapNetwork
from models.calibrator import Calibrator
from models.normalization import Normalisation
from models.ood_scores import OodScore
from models.serving_graph import ServingGraph
from pipeline.data.stored_images import StoredImages

Images = NDArray[np.uint8]
Outputs = NDArray[np.float32]
Infer = Callable[[Images, Sequence[str]], Mapping[str, Outputs]]
"""Forward pass of uint8 images (N, H, W, C) that returns the named outputs, as `Engine.run`."""

_BATCH = 64


class TorchInference:
    """Serving graph in torch, as `Infer`; LayerCAM maps are computed only on request.

    Args:
        network: network in evaluation mode, on `device`.
        normalisation: normalisation of its input.
        calibrator: calibrates the probabilities.
        device: the network's device.
        ood_score: score that the output `ood_score` holds.
        stage: stage of the LayerCAM maps; see `ServingGraph`.

    """

    def __init__(
        self,
        network: ClassMapNetwork,
        normalisation: Normalisation,
        calibrator: Calibrator,
        device: torch.device,
        *,
        ood_score: OodScore,
        stage: int | None,
    ) -> None:
        self._device = device
        self.has_layercam = stage is not None
        self._graph, self._layercam_graph = (
            ServingGraph(network, normalisation, calibrator, ood_score=ood_score, stage=each)
            .eval()
            .to(device)
            for each in (None, stage)
        )

    def __call__(self, images_nhwc: Images, outputs: Sequence[str]) -> dict[str, Outputs]:
        """Run one forward pass."""
        graph = self._layercam_graph if "layercams" in outputs else self._graph
        with torch.inference_mode():
            computed = graph(torch.from_numpy(images_nhwc).to(self._device))
        by_name = dict(zip(graph.outputs, computed, strict=True))
        return {name: by_name[name].float().cpu().numpy() for name in outputs}


def infer_output(infer: Infer, images_nhwc: Images | StoredImages, output: str) -> Outputs:
    """Compute one output for any number of images, in batches."""
    starts = range(0, len(images_nhwc), _BATCH)
    parts = [infer(images_nhwc[at : at + _BATCH], [output])[output] for at in starts]
    return np.concatenate(parts)
