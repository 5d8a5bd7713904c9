"""Network definitions. `ARCHITECTURES` is the registry; `build_network` reads it.

Names are imported on first use: `models.options` needs no torch, which takes seconds to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.heads import Head
    from models.network import ClassMapNetwork
    from models.options import NetworkOptions
    from models.registry import ARCHITECTURES, build_network
    from models.resnet import ResNet
    from models.torchvision_backbone import WeightsUnavailable

_MODULES = {
    "ARCHITECTURES": "models.registry",
    "ClassMapNetwork": "models.network",
    "Head": "models.heads",
    "NetworkOptions": "models.options",
    "ResNet": "models.resnet",
    "WeightsUnavailable": "models.torchvision_backbone",
    "build_network": "models.registry",
}

__all__ = [
    "ARCHITECTURES",
    "ClassMapNetwork",
    "Head",
    "NetworkOptions",
    "ResNet",
    "WeightsUnavailable",
    "build_network",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises:
        AttributeError: the package has no such name.

    """
    if name not in _MODULES:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
