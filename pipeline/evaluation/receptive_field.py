"""Receptive fields: the part of the image that an activation depends on."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Receptive field of an activation, in pixels along the larger side if they differ."""

    size: int = 1
    """Side of the field, which may go beyond the image's border."""
    jump: int = 1
    """Distance between the fields of neighbouring activations."""

    def through(self, layer: nn.Module) -> "ReceptiveField":
        """Return the field behind a layer, by its kernel, stride and dilation (Araujo, 2019)."""
        kernel, stride, dilation = _window(layer)
        return ReceptiveField(self.size + (kernel - 1) * dilation * self.jump, self.jump * stride)


def merged(fields: Iterable[ReceptiveField]) -> ReceptiveField:
    """Return the field where branches with these fields meet: the largest."""
    branches = list(fields)
    return ReceptiveField(
        max(field.size for field in branches), max(field.jump for field in branches)
    )


def _window(layer: nn.Module) -> tuple[int, int, int]:
    """Return kernel, stride and dilation; 1 each for a layer without a window."""
    kernel: int | tuple[int, ...] = getattr(layer, "kernel_size", 1)
    weight = getattr(layer, "weight", None)
    if isinstance(weight, Tensor) and weight.ndim == 4:
        kernel = tuple(weight.shape[2:])
    return (
        _largest(kernel),
        _largest(getattr(layer, "stride", 1)),
        _largest(getattr(layer, "dilation", 1)),
    )


def _largest(sides: int | tuple[int, ...]) -> int:
    return sides if isinstance(sides, int) else max(sides)
