"""The explanations of many images at once, by the service's own code."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from limelight.artifact.manifest import Method
from limelight.explanations import perturbation
from limelight.explanations.interpolation import bilinear
from models import ClassMapNetwork
from models.normalization import Normalisation
from models.ood_scores import OodScore
from models.serving_graph import ServingGraph

Images = NDArray[np.uint8]
Maps = NDArray[np.float32]
Look = Callable[[Images, Sequence[str]], Mapping[str, NDArray[np.float32]]]
"""A pass of uint8 images (N, H, W, C) that gives the outputs named, as `Engine.run` does."""

_BATCH = 64


class TorchLook:
    """A network in torch, as served, as a `Look`: finer maps are computed only if asked for.

    Args:
        network: in evaluation, on `device`.
        normalisation: of its input.
        temperature: of its probabilities.
        device: where it is.
        ood_score: the score that `ood_score` is.
        early: where the finer maps are from; see `ServingGraph`.

    """

    def __init__(
        self,
        network: ClassMapNetwork,
        normalisation: Normalisation,
        temperature: float,
        device: torch.device,
        *,
        ood_score: OodScore,
        early: int | None,
    ) -> None:
        self._device = device
        self.has_fine_maps = early is not None
        self._quick, self._complete = (
            ServingGraph(network, normalisation, temperature, ood_score=ood_score, early=stage)
            .eval()
            .to(device)
            for stage in (None, early)
        )

    def __call__(self, images_nhwc: Images, outputs: Sequence[str]) -> dict[str, Maps]:
        """One pass."""
        graph = self._complete if "layercams" in outputs else self._quick
        with torch.inference_mode():
            given = graph(torch.from_numpy(images_nhwc).to(self._device))
        by_name = dict(zip(graph.outputs, given, strict=True))
        return {name: by_name[name].float().cpu().numpy() for name in outputs}


def look_at(look: Look, images_nhwc: Images, output: str) -> NDArray[np.float32]:
    """One output of any number of images, a batch at a time."""
    starts = range(0, len(images_nhwc), _BATCH)
    parts = [look(images_nhwc[at : at + _BATCH], [output])[output] for at in starts]
    return np.concatenate(parts)


def maps_of(
    look: Look, images_nhwc: Images, classes: NDArray[np.int64], method: Method
) -> list[Maps]:
    """For each image the map of its class in `classes`, (N,), at the method's own resolution.

    Raises:
        ValueError: `contrast` is a difference of maps, not one.

    """
    match method:
        case "cam" | "layercam":
            output = "cams" if method == "cam" else "layercams"
            return list(look_at(look, images_nhwc, output)[np.arange(len(classes)), classes])
        case "occlusion":
            return [_occlusion(look, *one) for one in zip(images_nhwc, classes, strict=True)]
        case "scorecam":
            features = look_at(look, images_nhwc, "features")
            return [
                _score_cam(look, *one) for one in zip(images_nhwc, classes, features, strict=True)
            ]
        case _:
            raise ValueError(f"{method} is no map of one class")


def enlarged(map_hw: Maps, height: int, width: int) -> Maps:
    """The map at every pixel of the image: (h, w) -> (height, width)."""
    rows, columns = map_hw.shape
    full = bilinear(rows, height) @ map_hw @ bilinear(columns, width).T
    return full.astype(np.float32, copy=False)


def ranks_of(map_hw: Maps) -> NDArray[np.float64]:
    """0 where the map is highest, close to 1 where it is lowest; equal values in their order."""
    order = np.argsort(-map_hw, axis=None, kind="stable")
    ranks = np.empty(map_hw.size)
    ranks[order] = np.arange(map_hw.size) / map_hw.size
    return ranks.reshape(map_hw.shape)


def _occlusion(look: Look, image_hwc: Images, at: np.int64) -> Maps:
    logit = look_at(look, image_hwc[None], "logits")[0, at]
    hidden = look_at(look, perturbation.occlude(image_hwc), "logits")[:, at]
    return perturbation.occlusion_map(float(logit), hidden)


def _score_cam(look: Look, image_hwc: Images, at: np.int64, features_chw: Maps) -> Maps:
    active = features_chw[perturbation.strongest_channels(features_chw, len(features_chw))]
    if not len(active):
        return np.zeros(features_chw.shape[1:], np.float32)
    logits = look_at(look, perturbation.unveil(image_hwc, active), "logits")[:, at]
    return perturbation.score_cam(active, logits)
