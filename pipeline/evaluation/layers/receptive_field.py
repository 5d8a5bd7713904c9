"""Receptive fields: the part of the image that an activation depends on."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WHOLE = 1 << 30


@dataclass(frozen=True, slots=True)
class ReceptiveField:
    """Receptive field of an activation, in pixels along the larger side if they differ."""

    size: int = 1
    """Side of the field, which may go beyond the image's border."""
    jump: int = 1
    """Distance between the fields of neighbouring activations."""
    start: int = 0
    """First pixel of the first activation's field; negative if it is in the padding."""

    @property
    def is_whole(self) -> bool:
        """True if it has the whole image, whatever the image's size."""
        return self.size > _WHOLE

    def whole(self) -> "ReceptiveField":
        """Return the field of a value that depends on all positions: the whole image."""
        return ReceptiveField(2 * _WHOLE, self.jump, -_WHOLE)

    def through(self, layer: nn.Module) -> "ReceptiveField":
        """Return the field behind a layer, by kernel, stride, dilation, padding (Araujo, 2019)."""
        kernel, stride, dilation = _window(layer)
        return ReceptiveField(
            self.size + (kernel - 1) * dilation * self.jump,
            self.jump * stride,
            self.start - _padding(layer, (kernel - 1) * dilation) * self.jump,
        )

    def pixels(self, index: int, size: int) -> range:
        """Return the pixels that the activation at `index` sees, of a side of `size` pixels."""
        first = self.start + index * self.jump
        return range(max(0, first), min(size, first + self.size))


def merged(fields: Iterable[ReceptiveField]) -> ReceptiveField:
    """Return the field where branches with these fields meet: from the first to the last pixel."""
    branches = list(fields)
    start = min(field.start for field in branches)
    end = max(field.start + field.size for field in branches)
    return ReceptiveField(end - start, max(field.jump for field in branches), start)


def mixes_positions(layer: nn.Module, received: Tensor, output: Tensor) -> bool:
    """Tell whether an output depends on all positions, though the layer has no window.

    Received and output are (1, C, H, W); a norm over positions and a pooling have many names. So a
    NaN is put at the first position: it is at the last one, too, if the layer mixes them.
    """
    if _has_window(layer) or received.ndim < 4:
        return False
    # With channels last, a linear layer changes one side of what looks like a map.
    sides = zip(output.shape[2:], received.shape[2:], strict=False)
    if output.ndim < 4 or all(after < before for after, before in sides):
        return True
    if 1 in received.shape[2:]:  # the first position may be the last one
        return False
    probe = torch.zeros_like(received)
    probe[..., 0, 0] = torch.nan
    return bool(layer.forward(probe)[..., -1, -1].isnan().any())


def _has_window(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return hasattr(layer, "kernel_size") or (isinstance(weight, Tensor) and weight.ndim == 4)


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


def _padding(layer: nn.Module, reach: int) -> int:
    """Return the padding before the image; `reach` is how far the kernel goes beyond its first."""
    padding: int | str | tuple[int, ...] = getattr(layer, "padding", 0)
    if isinstance(padding, str):
        return reach // 2 if padding == "same" else 0
    return _largest(padding)


def _largest(sides: int | tuple[int, ...]) -> int:
    return sides if isinstance(sides, int) else max(sides)
