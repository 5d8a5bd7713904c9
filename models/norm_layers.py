"""Normalisations of a layer's output; the lesson's is written out."""

import torch
from torch import Tensor, nn

from models.options import Norm

GROUPS, CHANNELS_A_GROUP = 32, 4


class LessonNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, 2015) from means, deviations and two parameters.

    The normalisation of `BnLayer` in fast.ai's seventh lesson (2018), with running statistics for
    evaluation, which the lesson's layer lacks. (N, C, H, W) -> (N, C, H, W). It equals
    `nn.BatchNorm2d`: training divides by the biased standard deviation of the batch, where
    `epsilon` prevents 0 / 0 in a dead channel, and the running variance is the unbiased estimate
    for the data that the batch was drawn from.
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
            if x.numel() == x.shape[1]:
                raise ValueError(
                    f"one value per channel, in a batch of {list(x.shape)}, has no variance: train "
                    "with more images per batch, or larger ones"
                )
            precise = x.to(mean.dtype)  # autocast may have made it bfloat16
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
    """Make the normalisation `norm` of `channels`; `layer` has a single group of all channels.

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
    """Choose the number of groups of equal size for group normalisation (Wu and He, 2018).

    The largest number up to 32, as in the paper, whose groups have at least 4 channels: a group of
    one channel would be instance normalisation.
    """
    most = max(1, min(GROUPS, channels // CHANNELS_A_GROUP))
    return next(count for count in range(most, 0, -1) if channels % count == 0)
