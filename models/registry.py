"""The registry of architectures, and the function that builds a network from it."""

from collections.abc import Callable

from models import timm_backbone, torchvision_backbone
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
from models.options import NetworkOptions, reject_options
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
"""Functions that build a network from its input channels, classes and options, by name."""
BACKBONES: dict[str, Callable[[int, int, NetworkOptions], ClassMapNetwork]] = {
    torchvision_backbone.PREFIX: torchvision_backbone.build_backbone,
    timm_backbone.PREFIX: timm_backbone.build_timm,
}
"""The same for networks of other libraries, by the prefix of their names."""


def build_network(options: NetworkOptions, *, in_channels: int, classes: int) -> ClassMapNetwork:
    """Build the network that `options` name, initialised from torch's global random state.

    Raises:
        ValueError: there is no such architecture, or an option does not fit it.
        WeightsUnavailable: pretrained weights are requested and not available.

    """
    name = options.architecture
    prefix = f"{name.partition(':')[0]}:"
    if prefix in BACKBONES:
        return BACKBONES[prefix](in_channels, classes, options)
    if name not in ARCHITECTURES:
        known = ", ".join([*ARCHITECTURES, *(f"{prefix}NAME" for prefix in BACKBONES)])
        raise ValueError(f"no architecture {name!r}; there are: {known}")
    reject_options(options, "pretrained", "weights", *(() if name == "resnet" else ("whiten",)))
    return ARCHITECTURES[name](in_channels, classes, options)
