"""timm's convolutional networks with a head that has class activation maps."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from models.heads import ConvMapHead
from models.network import ClassMapNetwork
from models.options import DEFAULTS, NetworkOptions, reject_options

PREFIX = "timm:"


def build_timm(in_channels: int, classes: int, options: NetworkOptions) -> "TimmNetwork":
    """Build `timm:NAME`: its features, then a 3x3 convolution to K channels and average pooling.

    Nothing is downloaded: the weights are random.

    Raises:
        ValueError: timm is not installed or has no such network, its features are no map, or an
            option is set that it would ignore.

    """
    architecture = options.architecture
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{architecture} needs {error.name}, which is not installed: pip install "
            "'limelight[timm]'"
        ) from error
    # Any other name could be an address to download from.
    name = architecture.removeprefix(PREFIX)
    if name not in (known := timm.list_models()):
        similar = ", ".join(get_close_matches(name, known, n=8)) or "resnet18, convnext_atto"
        raise ValueError(f"no architecture {architecture}; timm has, for example: {similar}")
    if options.pretrained:
        raise ValueError(f"{architecture} takes no pretrained: give a file of weights instead")
    reject_options(options, *(DEFAULTS.keys() - {"architecture", "weights"}))
    try:
        with torch.device("cpu"):  # the features are tried, which needs values
            model = timm.create_model(
                name, pretrained=False, num_classes=0, global_pool="", in_chans=in_channels
            )
            channels = _prepare(model, in_channels)
    except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{architecture} gives no map of features, of which class activation maps are made "
            f"({str(error).partition(chr(10))[0]}): choose a convolutional network, such as "
            f"{PREFIX}resnet18"
        ) from error
    return TimmNetwork(TimmFeatures(model), ConvMapHead(channels, classes))


class TimmNetwork(ClassMapNetwork):
    """Network of which timm's model is the only module of the features."""

    def __init__(self, features: "TimmFeatures", head: ConvMapHead) -> None:
        names = {name: f"features.0.model.{name}" for name in features.model.state_dict()}
        super().__init__(nn.Sequential(features), head, published_names=names)

    def layer_groups(self) -> list[nn.Module]:
        """Split the blocks of the features into two halves; the third group is the head."""
        features: Any = self.features[0]
        blocks = [
            block for block in _blocks(features.model) if any(True for _ in block.parameters())
        ]
        middle = len(blocks) // 2
        return [nn.ModuleList(blocks[:middle]), nn.ModuleList(blocks[middle:]), self.head]


class TimmFeatures(nn.Module):
    """Features of a timm network: (N, C, H, W) -> (N, C', h, w)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features, before any pooling."""
        features: Tensor = self.model.forward_features(images)
        return features


def _prepare(model: Any, in_channels: int) -> int:
    """Remove the layers behind the features; return the number of channels of the features.

    Raises:
        ValueError: the features are no map (N, C, h, w).
        Exception: anything that timm raises for images of the network's own size.

    """
    used: set[nn.Module] = set()
    hooks = [
        module.register_forward_hook(lambda module, inputs, out: used.add(module))
        for module in model.modules()
    ]
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(1, in_channels, *model.default_cfg["input_size"][1:], generator=rng)
    model.eval()
    with torch.inference_mode():
        features = model.forward_features(images)
    for hook in hooks:
        hook.remove()
    shape = tuple(features.shape) if isinstance(features, Tensor) else ()
    if len(shape) != 4 or shape[1] != model.num_features or shape[2:] == (1, 1):
        raise ValueError(f"of an image it makes {shape or type(features).__name__}")
    for name, child in model.named_children():
        # Processes cannot train together if a parameter has no gradient.
        if used.isdisjoint(child.modules()):
            setattr(model, name, nn.Identity())
    with torch.inference_mode():
        if not torch.equal(features, model.forward_features(images)):
            raise ValueError("its features depend on its last layers")
    model.train()
    return shape[1]


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of a model in their order, and last the parameters outside of blocks."""
    own = list(module.parameters(recurse=False))
    for child in module.children():
        if type(child) in (nn.Sequential, nn.ModuleList):
            yield from _blocks(child)
        else:
            yield child
    if own:
        yield nn.ParameterList(own)
