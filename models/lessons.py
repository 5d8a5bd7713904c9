"""The networks of fast.ai's lessons, layer by layer.

`three-or-seven` and `simple-cnn` are from fastbook's chapter 13 (2020), the others from lesson 7
(2018, lesson7-cifar10), whose networks grow step by step. The recipes set the lessons' choices of
normalisation, order, pooling and dropout; these functions accept any.

`options.widths` are the channels of the layers, and their number is the number of layers.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from models.heads import ClassMapHead, ConvHead
from models.layers import ConvLayer, Residual
from models.network import ClassMapNetwork
from models.options import NetworkOptions, reject_options

LADDER = (10, 20, 40, 80, 160)
SIMPLENET_IMAGE = 32


class BnLayer(ConvLayer):
    """3x3 convolution without bias, ReLU, then normalisation: (N, in, H, W) -> (N, out, h, w).

    The layer that fast.ai's seventh lesson (2018) builds its CIFAR-10 networks from, if
    `norm="lesson"` and `order="relu-norm"`; other options are for comparison. It halves the
    resolution by default, and pads by 1 for every kernel size, as in the lesson.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: NetworkOptions,
        *,
        stride: int = 2,
        kernel: int = 3,
    ) -> None:
        super().__init__(
            in_channels, out_channels, options, kernel=kernel, stride=stride, padding=1
        )


def three_or_seven(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build stride-2 3x3 convolutions, 28 -> 14 -> 7 -> 4 -> 2, and a last one to the logits."""
    widths = options.widths or (4, 8, 16, 32)
    return _strided(in_channels, classes, options, widths, first_kernel=3)


def simple_cnn(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build `three_or_seven` for ten digits: 8 channels from the 25 pixels of a 5x5 kernel."""
    widths = options.widths or (8, 16, 32, 64)
    return _strided(in_channels, classes, options, widths, first_kernel=5)


def _strided(
    in_channels: int,
    classes: int,
    options: NetworkOptions,
    widths: tuple[int, ...],
    *,
    first_kernel: int,
) -> ClassMapNetwork:
    reject_options(options, "pool", "dropout")
    layers = [ConvLayer(in_channels, widths[0], options, kernel=first_kernel, stride=2)]
    layers += [ConvLayer(before, after, options, stride=2) for before, after in pairwise(widths)]
    return ClassMapNetwork(nn.Sequential(*layers), ConvHead(widths[-1], classes))


def simplenet(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build a multilayer perceptron for images of 32x32 pixels, 3072 -> 40 -> K by default.

    Its first linear layer is written as a convolution as large as the image, so its map has a
    single position.
    """
    widths = options.widths or (40,)
    layers = [ConvLayer(in_channels, widths[0], options, kernel=SIMPLENET_IMAGE, padding=0)]
    layers += [ConvLayer(before, after, options, kernel=1) for before, after in pairwise(widths)]
    return _with_linear_head(layers, widths[-1], classes, options)


def convnet(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build stride-2 3x3 convolutions without padding, and pool them."""
    widths = options.widths or (20, 40, 80)
    layers = [
        ConvLayer(before, after, options, stride=2, padding=0)
        for before, after in pairwise((in_channels, *widths))
    ]
    return _with_linear_head(layers, widths[-1], classes, options)


def conv_bn_net(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build a plain 5x5 convolution and stride-2 `BnLayer`s, and pool them."""
    widths = options.widths or LADDER
    layers = [BnLayer(before, after, options) for before, after in pairwise(widths)]
    stem = _bare_convolution(in_channels, widths[0])
    return _with_linear_head([stem, *layers], widths[-1], classes, options)


def conv_bn_net_deep(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build `conv_bn_net` with a stride-1 `BnLayer` after each stride-2 one: too deep to profit."""
    widths = options.widths or LADDER
    layers: list[nn.Module] = [_bare_convolution(in_channels, widths[0])]
    for before, after in pairwise(widths):
        layers += [BnLayer(before, after, options), BnLayer(after, after, options, stride=1)]
    return _with_linear_head(layers, widths[-1], classes, options)


def resnet_max(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build `conv_bn_net` and add two residual `BnLayer`s to each stage (He et al., 2015)."""
    widths = options.widths or LADDER
    stem = _bare_convolution(in_channels, widths[0])
    return _residual_stages(stem, classes, options, widths)


def resnet2(in_channels: int, classes: int, options: NetworkOptions) -> ClassMapNetwork:
    """Build a wider `resnet_max` with a 7x7 `BnLayer` first; the lesson has a dropout of 0.2."""
    widths = options.widths or (16, 32, 64, 128, 256)
    stem = BnLayer(in_channels, widths[0], options, stride=1, kernel=7)
    return _residual_stages(stem, classes, options, widths)


def _residual_stages(
    stem: nn.Module, classes: int, options: NetworkOptions, widths: tuple[int, ...]
) -> ClassMapNetwork:
    layers = [stem]
    for before, after in pairwise(widths):
        layers.append(BnLayer(before, after, options))
        layers += [Residual(BnLayer(after, after, options, stride=1)) for _ in range(2)]
    return _with_linear_head(layers, widths[-1], classes, options)


def _bare_convolution(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 5, padding=2)


def _with_linear_head(
    layers: Sequence[nn.Module],
    channels: int,
    classes: int,
    options: NetworkOptions,
) -> ClassMapNetwork:
    head = ClassMapHead.of(options, channels, classes)
    return ClassMapNetwork(nn.Sequential(*layers), head)
