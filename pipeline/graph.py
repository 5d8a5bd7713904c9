"""The graph that is exported: from uint8 pixels to probabilities and maps, in one pass."""

import torch
from torch import Tensor, nn

from models import ClassMapNetwork
from pipeline.normalisation import Normalisation, normalise


class ServingGraph(nn.Module):
    """`images`, uint8 (N, H, W, C) -> `logits`, `probabilities` (N, K), `cams` (N, K, h, w).

    And `features` (N, C, h, w), what the head was given: Score-CAM's masks. Normalisation,
    temperature and softmax are inside, so that every runtime gives one answer. The logits are as
    the network gives them; only the probabilities see the temperature.
    """

    scale: Tensor
    shift: Tensor
    temperature: Tensor

    def __init__(
        self, network: ClassMapNetwork, normalisation: Normalisation, temperature: float
    ) -> None:
        super().__init__()
        self.network = network
        scale, shift = normalisation.scale_and_shift()
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.register_buffer("temperature", torch.tensor(temperature, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Classify and explain images that are as the manifest's image rule leaves them."""
        features = self.network.features(normalise(images, self.scale, self.shift))
        logits = self.network.head(features)
        probabilities = (logits / self.temperature).softmax(1)
        cams = self.network.head.class_activation_maps(features)
        return logits, probabilities, cams, features
