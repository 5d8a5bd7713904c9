"""Data-parallel training under torchrun: process group and synchronised BatchNorm."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.errors import PipelineError, RunError
from pipeline.training.device import at_least_float32


@dataclass(frozen=True, slots=True)
class World:
    """Rank of this process, and the number of processes that train together."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """True in the process that writes files and messages."""
        return self.rank == 0

    def part(self) -> slice:
        """Slice a batch or a list of images to this process's share."""
        return slice(self.rank, None, self.size)

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()

    def mean(self, value: Tensor) -> Tensor:
        """Average a scalar over all processes."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
            value /= self.size
        return value

    def gather(self, rows: Tensor, total: int) -> Tensor:
        """Gather the rows that each process computed for its `part` of `total`: (total, ...)."""
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
    """Join the process group if torchrun started this process.

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
    # Gathered tensors are in main memory, so gloo is needed beside nccl.
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with the mean and variance over the batches of all processes.

    For CPUs: torch's own SyncBatchNorm needs a GPU.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Normalise: (N, C, H, W) -> (N, C, H, W)."""
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
    """Differentiable sum over all processes."""

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
    """Replace each BatchNorm by one that covers all processes, with the same state.

    Raises:
        RunError: a BatchNorm does more than that, as some of timm's do.

    """
    for name, child in network.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            synchronise_batch_norm(child, device)
            continue
        if type(child) is not nn.BatchNorm2d:
            raise RunError(
                f"the layer {type(child).__name__} of this network works in a single process only; "
                "train without torchrun, or choose another architecture"
            )
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
