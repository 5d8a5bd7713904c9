"""Normalisations of a layer's output, one of them written out."""

import torch
from torch import Tensor, nn

from models.options import Norm

GROUPS, CHANNELS_A_GROUP = 32, 4


class LessonNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) from means, deviations and two parameters.

    It is what `BnLayer` of fast.ai's seventh lesson (2018) does with a channel, with what that
    lacks: statistics for evaluation. (N, C, H, W) -> (N, C, H, W), and the same as
    `nn.BatchNorm2d`, to the choice of variance: an image is divided by the batch's own (biased)
    deviation, `epsilon` keeping a dead channel from 0 / 0, while the running variance is the
    unbiased one, since it stands for the data that the batch was drawn from.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, channels: int, *, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.multiplier = nn.Parameter(torch.ones(channels))
        self.adder = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise by the batch's statistics in training, by the running ones in evaluation."""
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            precise = x.to(mean.dtype)  # whatever autocast made of it
            variance, mean = torch.var_mean(precise, (0, 2, 3), correction=0)
            self._remember(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        deviation = (variance + self.epsilon).sqrt()
        normalised = (x - _per_channel(mean)) / _per_channel(deviation)
        return normalised * _per_channel(self.multiplier) + _per_channel(self.adder)

    def _remember(self, mean: Tensor, variance: Tensor, count: int) -> None:
        self.running_mean.lerp_(mean, self.momentum)
        self.running_variance.lerp_(variance * (count / (count - 1)), self.momentum)


def _per_channel(values: Tensor) -> Tensor:
    return values[:, None, None]


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """The normalisation `norm` of so many channels; `layer` takes all of an image's as one group.

    Raises:
        ValueError: there is no such normalisation.

    """
    match norm:
        case "batch":
            return nn.BatchNorm2d(channels)
        case "lesson":
            return LessonNorm(channels)
        case "group":
            return nn.GroupNorm(group_count(channels), channels)
        case "layer":
            return nn.GroupNorm(1, channels)
        case _:
            raise ValueError(f"no normalisation {norm!r}; there are: batch, lesson, group, layer")


def group_count(channels: int) -> int:
    """How many groups share so many channels evenly (Wu and He, 2018).

    As many as can be, up to their 32, of 4 channels or more: a group of one would be instance
    normalisation.
    """
    most = max(1, min(GROUPS, channels // CHANNELS_A_GROUP))
    return next(count for count in range(most, 0, -1) if channels % count == 0)
