"""Maps of many images, computed by the same code as in the service."""

import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from limelight.artifact.manifest import Method
from limelight.coroutines import finish
from limelight.explanations.interpolation import bilinear
from limelight.explanations.map_request import MapRequest
from limelight.explanations.methods import METHODS
from models import ClassMapNetwork
from models.normalization import Normalisation
from models.ood_scores import OodScore
from models.serving_graph import ServingGraph
from pipeline.data.stored_images import StoredImages

Images = NDArray[np.uint8]
Maps = NDArray[np.float32]
Infer = Callable[[Images, Sequence[str]], Mapping[str, NDArray[np.float32]]]
"""Forward pass of uint8 images (N, H, W, C) that returns the named outputs, as `Engine.run`."""

_BATCH = 64
# An export measures a method with all the masked images that it wants.
_UNLIMITED = sys.maxsize


class TorchInference:
    """Serving graph in torch, as `Infer`; LayerCAM maps are computed only on request.

    Args:
        network: network in evaluation mode, on `device`.
        normalisation: normalisation of its input.
        temperature: divides the logits before the softmax.
        device: the network's device.
        ood_score: score that the output `ood_score` holds.
        stage: stage of the LayerCAM maps; see `ServingGraph`.

    """

    def __init__(
        self,
        network: ClassMapNetwork,
        normalisation: Normalisation,
        temperature: float,
        device: torch.device,
        *,
        ood_score: OodScore,
        stage: int | None,
    ) -> None:
        self._device = device
        self.has_layercam = stage is not None
        self._graph, self._layercam_graph = (
            ServingGraph(network, normalisation, temperature, ood_score=ood_score, stage=each)
            .eval()
            .to(device)
            for each in (None, stage)
        )

    def __call__(self, images_nhwc: Images, outputs: Sequence[str]) -> dict[str, Maps]:
        """Run one forward pass."""
        graph = self._layercam_graph if "layercams" in outputs else self._graph
        with torch.inference_mode():
            computed = graph(torch.from_numpy(images_nhwc).to(self._device))
        by_name = dict(zip(graph.outputs, computed, strict=True))
        return {name: by_name[name].float().cpu().numpy() for name in outputs}


def infer_output(
    infer: Infer, images_nhwc: Images | StoredImages, output: str
) -> NDArray[np.float32]:
    """Compute one output for any number of images, in batches."""
    starts = range(0, len(images_nhwc), _BATCH)
    parts = [infer(images_nhwc[at : at + _BATCH], [output])[output] for at in starts]
    return np.concatenate(parts)


def maps_of(
    infer: Infer, images_nhwc: Images, classes: NDArray[np.int64], method: Method
) -> list[Maps]:
    """Compute each image's map of its class in `classes`, (N,), at the method's own resolution.

    Raises:
        ValueError: the method is `contrast`, which is a difference of two maps.

    """
    entry = METHODS[method]
    if entry.contrasts:
        raise ValueError(f"{method} is not a map of one class")
    outputs = infer_output(infer, images_nhwc, entry.output)
    if entry.every_class:
        return list(outputs[np.arange(len(classes)), classes])

    async def evaluate(masked_nhwc: Images) -> NDArray[np.float32]:
        return infer_output(infer, masked_nhwc, "logits")

    requests = (
        MapRequest(image_hwc, {entry.output: row}, int(label), None, _UNLIMITED, evaluate)
        for image_hwc, row, label in zip(images_nhwc, outputs, classes, strict=True)
    )
    return [finish(entry.explain(request)) for request in requests]


def enlarged(map_hw: Maps, height: int, width: int) -> Maps:
    """Enlarge a map to the image's size: (h, w) -> (height, width)."""
    rows, columns = map_hw.shape
    full = bilinear(rows, height) @ map_hw @ bilinear(columns, width).T
    return full.astype(np.float32, copy=False)


def ranks_of(map_hw: Maps) -> NDArray[np.float64]:
    """Rank positions: 0 at the highest value, close to 1 at the lowest; ties in reading order."""
    ordinals: NDArray[np.float64] = rankdata(-map_hw, method="ordinal").reshape(map_hw.shape)
    return (ordinals - 1) / map_hw.size
