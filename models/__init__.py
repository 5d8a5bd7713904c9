"""Network definitions. `ARCHITECTURES` is the registry; `build_network` reads it."""

from collections.abc import Callable

from models.backbone import PREFIX, WeightsUnavailable, build_backbone
from models.heads import Head
from models.lessons import (
    conv_bn_net,
    conv_bn_net_deep,
    convnet,
    resnet2,
    resnet_max,
    simple_cnn,
    simplenet,
    three_or_seven,
)
from models.network import ClassMapNetwork
from models.option_checks import refuse
from models.options import NetworkOptions
from models.resnet import ResNet

ARCHITECTURES: dict[str, Callable[[int, int, NetworkOptions], ClassMapNetwork]] = {
    "resnet": ResNet,
    "three-or-seven": three_or_seven,
    "simple-cnn": simple_cnn,
    "simplenet": simplenet,
    "convnet": convnet,
    "conv-bn-net": conv_bn_net,
    "conv-bn-net-deep": conv_bn_net_deep,
    "resnet-max": resnet_max,
    "resnet2": resnet2,
}
"""By name: what builds a network of so many input channels, classes and with these options.

`torchvision:NAME` stands beside them, for each of torchvision's ResNets.
"""


def build_network(options: NetworkOptions, *, in_channels: int, classes: int) -> ClassMapNetwork:
    """The network that `options` name, freshly initialised from torch's global random state.

    Raises:
        ValueError: there is no such architecture, or an option does not fit it.
        WeightsUnavailable: pretrained weights were asked for and cannot be had.

    """
    name = options.architecture
    if name.startswith(PREFIX):
        return build_backbone(in_channels, classes, options)
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"no architecture {name!r}; there are: {known}, {PREFIX}NAME")
    refuse(options, "pretrained", *(() if name == "resnet" else ("whiten",)))
    return ARCHITECTURES[name](in_channels, classes, options)


__all__ = [
    "ARCHITECTURES",
    "ClassMapNetwork",
    "Head",
    "NetworkOptions",
    "ResNet",
    "WeightsUnavailable",
    "build_network",
]
