"""Data-parallel training under torchrun: who takes part, and BatchNorm over all of them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import PipelineError
from pipeline.training.device import at_least_float32


@dataclass(frozen=True, slots=True)
class World:
    """One process among those that train together: the one that this runs in."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def part(self) -> slice:
        """The process's share of a batch or of a list of images."""
        return slice(self.rank, None, self.size)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a scalar over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """Put together what each process computed for its `part` of `total` rows: (total, ...)."""
        if self.size == 1:
            return rows
        longest = -(-total // self.size)
        padded = torch.zeros(longest, *rows.shape[1:], dtype=rows.dtype)
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return torch.stack(parts, 1).flatten(0, 1)[:total]


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """Take part in the training that torchrun started; alone where it did not.

    Raises:
        PipelineError: this process has no GPU of its own.

    """
    if "WORLD_SIZE" not in os.environ:
        yield World()
        return
    if device.type == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise PipelineError(
                f"process {local} has no GPU of its own; start at most "
                f"--nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
    # What is gathered lies in main memory, so gloo is needed beside nccl.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the mean and variance of all processes' batches, on a CPU too.

    torch's own SyncBatchNorm needs a GPU.
    """

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return super().forward(images)
        values = at_least_float32(images)
        count = values.numel() // values.shape[1] * dist.get_world_size()
        mean = _sum_of_all(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _sum_of_all(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * count / (count - 1))
        scale = self.weight * (variance + self.eps).rsqrt()
        out: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return out.to(images.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        if self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = self.momentum or 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes, which gradients flow through: each summand's is the total's."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # Every process has its own loss, and all of them depend on each summand.
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_of_all(values: Tensor) -> Tensor:
    total: Tensor = _SumOfAll.apply(values)
    return total


def synchronise_batch_norm(network: nn.Module, device: torch.device) -> None:
    """Replace each BatchNorm of `network` by one over all processes, with the same state."""
    for name, child in network.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            synchronise_batch_norm(child, device)
            continue
        if device.type == "cuda":
            replacement: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(  # type: ignore[no-untyped-call]
                child
            )
        else:
            replacement = SynchronisedBatchNorm2d(
                child.num_features, eps=child.eps, momentum=child.momentum
            )
            replacement.load_state_dict(child.state_dict())
        setattr(network, name, replacement)
