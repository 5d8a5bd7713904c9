"""Network definitions. `ARCHITECTURES` is the whole registry."""

from collections.abc import Callable, Sequence

from models.resnet import ClassMapNetwork, ResNet

ARCHITECTURES: dict[str, Callable[[int, int, Sequence[int]], ClassMapNetwork]] = {
    "resnet": ResNet,
}

__all__ = ["ARCHITECTURES", "ClassMapNetwork", "ResNet"]
