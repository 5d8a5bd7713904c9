"""Per-channel mean and standard deviation, and the step from bytes to the network's input."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalisation:
    """Mean and standard deviation of each channel, of pixels scaled to [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, images: NDArray[np.uint8]) -> "Normalisation":
        """Measure uint8 images (N, H, W, C)."""
        counts = [
            np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, 3, 0)
        ]
        levels = np.arange(256) / 255
        means = [float(np.average(levels, weights=count)) for count in counts]
        variances = [
            float(np.average((levels - mean) ** 2, weights=count))
            for mean, count in zip(means, counts, strict=True)
        ]
        # A constant channel carries nothing: dividing by 1 leaves it at zero.
        return cls(mean=tuple(means), std=tuple(math.sqrt(v) or 1.0 for v in variances))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What a channel's grey level is multiplied by, and what is added to it then: (C,) each."""
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return 1 / (255 * std), -mean / std

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """The function from uint8 (N, H, W, C) to float32 (N, C, H, W), for images on `device`."""
        scale, shift = (values.to(device) for values in self.scale_and_shift())
        return lambda images_nhwc: normalise(images_nhwc, scale, shift)


def normalise(images_nhwc: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """uint8 (N, H, W, C), (C,), (C,) -> float32 (N, C, H, W), channels last in memory."""
    return (images_nhwc.float() * scale + shift).permute(0, 3, 1, 2)
