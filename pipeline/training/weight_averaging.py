"""Moving average of a network's weights."""

from collections.abc import Sequence

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
