"""BatchNorm ResNets, split at the seam that a class activation map needs."""

from collections.abc import Sequence

from torch import Tensor, nn


class ConvBlock(nn.Sequential):
    """3x3 convolution, BatchNorm, ReLU: (N, in, H, W) -> (N, out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class Residual(nn.Module):
    """x + two ConvBlocks(x) (He et al., 2015); keeps the shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(ConvBlock(channels, channels), ConvBlock(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = x + self.branch(x)
        return out


class ClassMapHead(nn.Module):
    """Global average pooling and one linear layer, so that class activation maps are exact."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Pool and classify: (N, C, h, w) -> logits (N, K)."""
        logits: Tensor = self.linear(features.mean((2, 3)))
        return logits

    def class_activation_maps(self, features: Tensor) -> Tensor:
        """Score every position for every class: (N, C, h, w) -> (N, K, h, w).

        Their mean over positions plus the bias is the logit, exactly (Zhou et al., 2016, eq. 2).
        """
        return nn.functional.conv2d(features, self.linear.weight[:, :, None, None])


class ClassMapNetwork(nn.Module):
    """A network that is `features` followed by a `ClassMapHead`."""

    features: nn.Module
    head: ClassMapHead

    def forward(self, images: Tensor) -> Tensor:
        """Classify normalised images: (N, C, H, W) -> logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


class ResNet(ClassMapNetwork):
    """A stem and three residual stages; the maps have a quarter of the image's resolution.

    Wide and shallow, which trains in few epochs (the layout of the DAWNBench CIFAR-10 entries,
    Page, 2018), with the last pooling left out so that the maps stay fine: 8x8 for a 32x32 image.
    `widths` are the channels of the stem and of the three stages.
    """

    def __init__(self, in_channels: int, classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ValueError(f"widths: 4 numbers are needed (stem and 3 stages), got {len(widths)}")
        stem, first, second, third = widths
        self.features = nn.Sequential(
            ConvBlock(in_channels, stem),
            ConvBlock(stem, first),
            nn.MaxPool2d(2),
            Residual(first),
            ConvBlock(first, second),
            nn.MaxPool2d(2),
            Residual(second),
            ConvBlock(second, third),
            Residual(third),
        )
        self.head = ClassMapHead(third, classes)
