"""Knowledge distillation: train on the predictions of teacher models instead of labels.

After Hinton, Vinyals and Dean (2015, arXiv 1503.02531). Teachers get the same augmented images as
the student (Beyer et al., 2022, arXiv 2106.05237).
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.training.device import compiles
from pipeline.training.teacher import Teacher
from pipeline.training.weights import Weights, load_network, under


class Teachers:
    """Teacher networks, whose probabilities are averaged.

    Args:
        teachers: at least one.
        weights: of the first teacher, with the prefix `0.`, of the second with `1.`, and so on.
        classes: their number.
        temperature: divisor of logits; a higher one gives the improbable classes more weight.
        device: the device of the teachers.

    Raises:
        RunError: the weights of a teacher do not fit its network.

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
        """Factor of losses that makes the size of gradients independent of the temperature."""
        self._networks = []
        for number, teacher in enumerate(teachers):
            network = load_network(
                teacher.network,
                under(str(number), weights),
                name=teacher.name,
                channels=len(teacher.normalisation.mean),
                classes=classes,
            )
            fold_batch_norms(network)
            network = network.to(device).to(memory_format=torch.channels_last)
            answer = torch.compile(network, dynamic=False) if compiles(device) else network
            self._networks.append((answer, teacher.normalisation.on(device)))

    @torch.no_grad()
    def answer(self, images_nhwc: Tensor) -> Tensor:
        """Predict uint8 images (B, H, W, C) at the temperature: probabilities, float32 (B, K)."""
        answers = [
            (network(prepare(images_nhwc)).float() / self._temperature).softmax(1)
            for network, prepare in self._networks
        ]
        return torch.stack(answers).mean(0)

    def losses(self, logits: Tensor, answers: Tensor) -> Tensor:
        """Compute the cross entropy of `logits` at the temperature: (B, K) and (B, K) -> (B,).

        Its targets are `answers`, and its factor is `scale` (Hinton et al., 2015, section 2).
        """
        softened = nn.functional.cross_entropy(
            logits / self._temperature, answers, reduction="none"
        )
        return softened * self.scale


def fold_batch_norms(network: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it, which saves a third of a forward pass.

    Args:
        network: in evaluation mode; its outputs stay the same, but it can no longer be trained.

    """
    for layers in network.modules():
        if not isinstance(layers, nn.Sequential):
            continue
        for number, (conv, norm) in enumerate(itertools.pairwise(layers)):
            # A subclass may do more: timm's BatchNormAct2d has the activation in it.
            if type(conv) is nn.Conv2d and type(norm) is nn.BatchNorm2d:
                layers[number] = fuse_conv_bn_eval(conv, norm)
                layers[number + 1] = nn.Identity()
