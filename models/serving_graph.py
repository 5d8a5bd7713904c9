"""The graph that is exported: from uint8 pixels to probabilities and maps, in one pass."""

from copy import deepcopy

import torch
from torch import Tensor, nn

from models import ClassMapNetwork
from models.gradients import NotDifferentiableHereError, layercam_stage, with_pull_back
from models.normalization import Normalisation, normalise
from models.ood_scores import Energy, OodScore

# The derivatives of each class are a pass of their own through what lies behind the layercam stage.
MOST_CLASSES = 32


class ServingGraph(nn.Module):
    """`images`, uint8 (N, H, W, C) -> `outputs`, float32, in their order.

    `logits`, `probabilities` (N, K) and `cams` (N, K, h, w); `features` (N, C, h, w), what the
    head was given: Score-CAM's masks; `ood_score` (N,), higher for images unlike the training
    data; and `layercams` (N, K, h', w'), finer maps, where `early` says how many modules of the
    network's features come before them.

    With `fp16` the features are computed in float16; everything before and after is not.

    Normalisation, temperature and softmax are inside, so that every runtime gives one answer. The
    logits are as the network gives them; only the probabilities see the temperature.
    """

    scale: Tensor
    shift: Tensor
    temperature: Tensor

    def __init__(
        self,
        network: ClassMapNetwork,
        normalisation: Normalisation,
        temperature: float,
        *,
        ood_score: OodScore | None = None,
        early: int | None = None,
        fp16: bool = False,
    ) -> None:
        super().__init__()
        if fp16 and early is not None:
            raise ValueError("finer maps are of full precision")
        self.network = network
        # What follows is little work, and sums over many positions.
        self._fp16 = deepcopy(network.features).half() if fp16 else None
        scale, shift = normalisation.scale_and_shift()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))
        self.ood_score = Energy() if ood_score is None else ood_score
        self._early = early

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what a pass gives."""
        always = ("logits", "probabilities", "cams", "features", "ood_score")
        return always if self._early is None else (*always, "layercams")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Classify and explain images that are as the manifest's image rule leaves them."""
        features, head = self.network.features, self.network.head
        pixels = normalise(images, self.scale, self.shift)
        layercam = None
        if self._fp16 is not None:
            last = self._fp16(pixels.half()).float()
        elif self._early is None:
            last = features(pixels)
        else:
            stage = features[: self._early](pixels)
            last, pull_back = with_pull_back(features[self._early :], stage)
            derivatives = head.derivatives(last).expand(stage.shape[0], -1, -1, -1, -1)
            layercam = layer_cams(stage, pull_back(derivatives))
        logits = head(last)
        probabilities = (logits / self.temperature).softmax(1)
        cams = head.class_activation_maps(last)
        ood = self.ood_score(last.mean((2, 3)), logits)
        outputs = logits, probabilities, cams, last, ood
        return outputs if layercam is None else (*outputs, layercam)


def layer_cams(stage: Tensor, derivatives: Tensor) -> Tensor:
    """LayerCAM (Jiang et al., 2021, eq. 7 and 8): (N, C, h, w), (N, K, C, h, w) -> (N, K, h, w).

    Each position of each channel counts by its own derivative, where that is positive.
    """
    return (derivatives.relu() * stage[:, None]).sum(2).relu()


def find_layercam_stage(
    network: ClassMapNetwork, normalisation: Normalisation, images: Tensor
) -> int | None:
    """How many modules of the network's features come before its finer maps, if it can have any.

    None where the resolution never falls, a layer has no derivative in `models.gradients`, or there
    are more than 32 classes. `images` is a uint8 batch (N, H, W, C) to try it with.
    """
    pixels = normalisation.on(images.device)(images)
    early = layercam_stage(network.features, pixels)
    if early is None:
        return None
    with torch.inference_mode():
        try:
            last, _ = with_pull_back(network.features[early:], network.features[:early](pixels))
        except NotDifferentiableHereError:
            return None
        return early if network.head(last).shape[1] <= MOST_CLASSES else None
