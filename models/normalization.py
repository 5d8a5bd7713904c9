"""Per-channel mean and standard deviation, and the conversion of bytes to network input.

A run's configuration has a `Normalisation`, and is read before torch is imported, which takes
seconds.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, batches: Iterable[NDArray[np.uint8]]) -> "Normalisation":
        """Measure uint8 images in batches (N, H, W, C), of which there is at least one."""
        counts = np.sum([_count_levels(batch) for batch in batches], 0)
        levels = np.arange(256) / 255
        means = [float(np.average(levels, weights=count)) for count in counts]
        variances = [
            float(np.average((levels - mean) ** 2, weights=count))
            for mean, count in zip(means, counts, strict=True)
        ]
        # A constant channel has no information: dividing by 1 leaves it at zero. Its variance may
        # differ from 0 by rounding.
        deviations = [
            math.sqrt(variance) if np.count_nonzero(count) > 1 else 1.0
            for variance, count in zip(variances, counts, strict=True)
        ]
        return cls(mean=tuple(means), std=tuple(deviations))

    def scale_and_shift(self) -> "tuple[Tensor, Tensor]":
        """Return the factor and then the summand of each channel's grey levels: (C,) each."""
        import torch

        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return 1 / (255 * std), -mean / std

    def on(self, device: "torch.device") -> "Callable[[Tensor], Tensor]":
        """Make the function from uint8 (N, H, W, C) on `device` to float32 (N, C, H, W)."""
        scale, shift = (values.to(device) for values in self.scale_and_shift())
        return lambda images_nhwc: normalise(images_nhwc, scale, shift)


def _count_levels(images_nhwc: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count how often each grey level occurs in each channel: (C, 256)."""
    channels = np.moveaxis(images_nhwc, 3, 0)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])


def normalise(images_nhwc: "Tensor", scale: "Tensor", shift: "Tensor") -> "Tensor":
    """Normalise: uint8 (N, H, W, C), (C,), (C,) -> float32 (N, C, H, W), channels last."""
    return (images_nhwc.float() * scale + shift).permute(0, 3, 1, 2)
