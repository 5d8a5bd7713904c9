"""Moving average of a network's weights, and the statistics of its norms."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def moving_average(network: nn.Module, decay: float) -> AveragedModel:
    """Make an exponential moving average that begins as the plain mean of all weights so far.

    Otherwise it would depend on the first weights for 1 / (1 - `decay`) updates. Buffers are
    averaged, too.
    """

    def update(averaged: Sequence[Tensor], now: Sequence[Tensor], count: Tensor | int) -> None:
        slow = min(decay, 1 - 1 / (int(count) + 1))
        get_ema_multi_avg_fn(slow)(averaged, now, count)  # type: ignore[no-untyped-call]

    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


@torch.no_grad()
def measure_running_statistics(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Replace running means and variances by their means over `batches`, (N, C, H, W) each.

    As `torch.optim.swa_utils.update_bn`, and also for layers that are not torch's own.
    """
    layers: list[nn.Module] = [
        layer for layer in network.modules() if getattr(layer, "running_mean", None) is not None
    ]
    if not layers:
        return
    momenta, training = [layer.momentum for layer in layers], network.training
    network.train()
    for number, images in enumerate(batches, start=1):
        for layer in layers:
            layer.momentum = 1 / number  # type: ignore[assignment]  # the mean of all batches
        network(images)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
    network.train(training)
