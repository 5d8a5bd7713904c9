"""Knowledge distillation: a network learns what trained ones answer, instead of the labels.

After Hinton, Vinyals and Dean (2015, arXiv 1503.02531). The teachers see each image as the network
that learns does, cropped, cut and mixed, since it is of that view that they are asked (Beyer et
al., 2022, arXiv 2106.05237).
"""

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from models import NetworkOptions
from models.normalization import Normalisation
from pipeline.training.weights import Weights, load_network, under


class Teacher(BaseModel):
    """A trained model that another one learns from, without its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    network: NetworkOptions
    normalisation: Normalisation


class Teachers:
    """Trained networks, whose answers are averaged.

    Args:
        teachers: at least one.
        weights: those of the first under `0.`, of the second under `1.`, and so on.
        classes: how many they tell apart.
        temperature: what logits are divided by; the higher, the more an answer says of the classes
            that it is not.
        device: where they answer.

    Raises:
        RunError: the weights of one are not its network's.

    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        weights: Weights,
        *,
        classes: int,
        temperature: float,
        device: torch.device,
    ) -> None:
        self._temperature = temperature
        self.scale = temperature**2
        """What losses are multiplied by, so that gradients are of one size at all temperatures."""
        self._asked = []
        for number, teacher in enumerate(teachers):
            network = load_network(
                teacher.network,
                under(str(number), weights),
                name=teacher.name,
                channels=len(teacher.normalisation.mean),
                classes=classes,
            )
            network = network.to(device).to(memory_format=torch.channels_last)
            self._asked.append((network, teacher.normalisation.on(device)))

    @torch.no_grad()
    def answer(self, images_nhwc: Tensor) -> Tensor:
        """Probabilities of uint8 images (B, H, W, C) at the temperature: float32 (B, K)."""
        answers = [
            (network(prepare(images_nhwc)).float() / self._temperature).softmax(1)
            for network, prepare in self._asked
        ]
        return torch.stack(answers).mean(0)

    def losses(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Cross entropy of `logits` at the temperature with `answers`: (B, K) and (B, K) -> (B,).

        Times `scale` (Hinton et al., 2015, section 2).
        """
        softened = nn.functional.cross_entropy(
            logits / self._temperature, answers, reduction="none"
        )
        return softened * self.scale
