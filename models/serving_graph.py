"""Serving graph: uint8 pixels to probabilities and maps in one forward pass, as exported."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from models import ClassMapNetwork
from models.calibrator import Calibrator
from models.gradients import NotDifferentiableHereError, layercam_stage, with_pull_back
from models.normalization import Normalisation, normalise
from models.ood_scores import Energy, OodScore

# The derivatives of each class cost as much as a forward pass behind the LayerCAM stage.
MOST_CLASSES = 32


class ServingGraph(nn.Module):
    """Network with normalisation, calibration, maps and OOD score, as it is exported and served.

    It takes `images`, uint8 (N, H, W, C), and returns these `outputs`, float32, in this order:

    - `logits` (N, K): as the network computes them.
    - `probabilities` (N, K): softmax of the calibrated logits.
    - `cams` (N, K, h, w): class activation maps.
    - `features` (N, C, h, w): input of the head, and the masks of Score-CAM.
    - `ood_score` (N,): higher for images unlike the training data.
    - `layercams` (N, K, h', w'), only with `stage`: LayerCAM maps of the features after the first
      `stage` modules of the network's features.

    With `fp16` the features are computed in float16, everything before and after in float32.
    Normalisation, calibration and softmax are part of the graph, so that all runtimes agree.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: ClassMapNetwork,
        normalisation: Normalisation,
        calibrator: Calibrator,
        *,
        ood_score: OodScore | None = None,
        stage: int | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__()
        if fp16 and stage is not None:
            raise ValueError("LayerCAM maps need float32: leave out `fp16` or `stage`")
        self.network = network
        # The head stays in float32: it is little work, and it sums over many positions.
        self._fp16 = deepcopy(network.features).half() if fp16 else None
        scale, shift = normalisation.scale_and_shift()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self._calibrator = calibrator
        self.ood_score = Energy() if ood_score is None else ood_score
        self._stage = stage

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        always = ("logits", "probabilities", "cams", "features", "ood_score")
        return always if self._stage is None else (*always, "layercams")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Classify and explain images that were prepared by the manifest's image rule."""
        features, head = self.network.features, self.network.head
        pixels = normalise(images, self.scale, self.shift)
        layercam = None
        if self._fp16 is not None:
            last = self._fp16(pixels.half()).float()
        elif self._stage is None:
            last = features(pixels)
        else:
            stage = features[: self._stage](pixels)
            last, pull_back = with_pull_back(features[self._stage :], stage)
            derivatives = head.derivatives(last).expand(stage.shape[0], -1, -1, -1, -1)
            layercam = layer_cams(stage, pull_back(derivatives))
        logits = head(last)
        probabilities = self._calibrator(logits).softmax(1)
        cams = head.class_activation_maps(last)
        ood = self.ood_score(last.mean((2, 3)), logits)
        outputs = logits, probabilities, cams, last, ood
        return outputs if layercam is None else (*outputs, layercam)


def layer_cams(stage: Tensor, derivatives: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., 2021, eq. 7 and 8): (N, C, h, w), (N, K, C, h, w) -> (N, K, h, w).

    The weight of each position of each channel is its own derivative, if that is positive.
    """
    return (derivatives.relu() * stage[:, None]).sum(2).relu()


def find_layercam_stage(
    network: ClassMapNetwork, normalisation: Normalisation, images: Tensor
) -> int | None:
    """Return the number of modules of the network's features before its LayerCAM maps.

    None if the resolution never falls, a layer has no derivative in `models.gradients`, or there
    are more than 32 classes. `images` is a uint8 batch (N, H, W, C) to try it with.
    """
    pixels = normalisation.on(images.device)(images)
    stage = layercam_stage(network.features, pixels)
    if stage is None:
        return None
    with torch.inference_mode():
        try:
            last, _ = with_pull_back(network.features[stage:], network.features[:stage](pixels))
        except NotDifferentiableHereError:
            return None
        return stage if network.head(last).shape[1] <= MOST_CLASSES else None
