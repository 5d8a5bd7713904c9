"""ResNet of this project: wide and shallow."""

from torch import nn

from models.heads import ClassMapHead
from models.layers import ConvLayer, Residual
from models.network import ClassMapNetwork
from models.options import NetworkOptions
from models.whitening import WhitenedConv

WIDTHS = (32, 64, 112, 176)


class ResNet(ClassMapNetwork):
    """Stem and three residual stages; the maps have a quarter of the image's resolution.

    A wide and shallow network trains in few epochs (the layout of the DAWNBench CIFAR-10 entries,
    Page, 2018). The last pooling is left out, for maps with more cells: 8x8 for a 32x32 image.
    `options.widths` are the channels of the stem and of the three stages.
    """

    def __init__(self, in_channels: int, classes: int, options: NetworkOptions) -> None:
        widths = options.widths or WIDTHS
        if len(widths) != len(WIDTHS):
            raise ValueError(f"widths: 4 numbers are needed (stem and 3 stages), got {len(widths)}")
        stem, first, second, third = widths
        features = nn.Sequential(
            _stem(in_channels, stem, options),
            ConvLayer(stem, first, options),
            nn.MaxPool2d(2),
            residual(first, options),
            ConvLayer(first, second, options),
            nn.MaxPool2d(2),
            residual(second, options),
            ConvLayer(second, third, options),
            residual(third, options),
        )
        super().__init__(features, ClassMapHead.of(options, third, classes))


def _stem(in_channels: int, out_channels: int, options: NetworkOptions) -> nn.Module:
    if options.whiten:
        return nn.Sequential(WhitenedConv(in_channels, out_channels), nn.ReLU(inplace=True))
    return ConvLayer(in_channels, out_channels, options)


def residual(channels: int, options: NetworkOptions) -> Residual:
    """Make a residual block of two layers."""
    layers = (ConvLayer(channels, channels, options) for _ in range(2))
    return Residual(nn.Sequential(*layers))
