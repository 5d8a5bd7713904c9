"""How much of the image an activation sees."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Reach:
    """What of the image an activation sees; in pixels, along the larger side if they differ."""

    field: int = 1
    """Side of the receptive field, which may go beyond the image's border."""
    jump: int = 1
    """Distance between the fields of neighbouring activations."""

    def through(self, layer: nn.Module) -> "Reach":
        """The reach behind a layer, by its kernel, stride and dilation (Araujo et al., 2019)."""
        kernel, stride, dilation = _window(layer)
        return Reach(self.field + (kernel - 1) * dilation * self.jump, self.jump * stride)


def farthest(reaches: Iterable[Reach]) -> Reach:
    """The reach where branches of these meet."""
    met = list(reaches)
    return Reach(max(reach.field for reach in met), max(reach.jump for reach in met))


def _window(layer: nn.Module) -> tuple[int, int, int]:
    """Kernel, stride and dilation; those of a layer without a window are 1."""
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
