"""torchvision's ResNets with a head that has class activation maps."""

import pickle
from pathlib import Path

import torch
from torch import nn

from models.heads import ConvMapHead
from models.network import ClassMapNetwork
from models.options import DEFAULTS, NetworkOptions, reject_options

PREFIX = "torchvision:"


class WeightsUnavailable(Exception):  # noqa: N818
    """Requested pretrained weights are not available; the message says what to do."""


def build_backbone(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build `torchvision:NAME`: a ResNet without its pooling and linear layer.

    In their place it has a 3x3 convolution to K channels and average pooling, as in fast.ai's
    seventh lesson (2018), dogs against cats. The maps have a 32nd of the image's resolution.

    Raises:
        ValueError: there is no such ResNet, the images are not in colour, or an option is set that
            it would ignore.
        WeightsUnavailable: `pretrained` is set, and the weights are neither cached nor can they be
            downloaded.

    """
    from torchvision.models import get_model

    name = options.architecture.removeprefix(PREFIX)
    if name not in (known := resnet_names()):
        raise ValueError(f"no architecture {PREFIX}{name}; there are: {', '.join(known)}")
    if in_channels != 3:
        raise ValueError(
            f"{options.architecture} takes images of 3 channels, not {in_channels}; choose "
            "another architecture"
        )
    reject_options(options, *(DEFAULTS.keys() - {"architecture", "pretrained", "weights"}))
    network = get_model(name, weights=None)
    if options.pretrained:
        load_published(network, name)
    *features, _, linear = network.children()
    names = {
        f"{child}.{name}": f"features.{number}.{name}"
        for number, (child, module) in enumerate([*network.named_children()][:-2])
        for name in module.state_dict()
    }
    # The stem has four modules, and four stages follow it: the early group ends after two stages.
    return ClassMapNetwork(
        nn.Sequential(*features),
        ConvMapHead(linear.in_features, classes),
        early=6,
        published_names=names,
    )


def resnet_names() -> list[str]:
    """List the ResNets of torchvision, including wide ones and ResNeXts."""
    from torchvision import models

    return [
        name
        for name in models.list_models(module=models)
        if models.get_model_builder(name).__module__ == models.resnet.__name__
    ]


def load_published(network: nn.Module, name: str) -> None:
    """Load the weights that torchvision publishes for `name`, from torch hub's cache or the web.

    Raises:
        WeightsUnavailable: they are neither cached nor can they be downloaded, or the cached file
            is damaged or of another network.

    """
    from torchvision.models import get_model_weights

    url = get_model_weights(name)["DEFAULT"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    try:
        weights = torch.hub.load_state_dict_from_url(
            url, progress=False, check_hash=True, weights_only=True, map_location="cpu"
        )
        network.load_state_dict(weights)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsUnavailable(
            f"the published weights of {name} are not available ({error}): put the whole file "
            f"{url} at {file}, or train from scratch without `pretrained`"
        ) from error
