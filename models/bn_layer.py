"""The layer that fast.ai's seventh lesson (2018) builds its CIFAR-10 networks from."""

from models.layers import ConvLayer
from models.options import NetworkOptions


class BnLayer(ConvLayer):
    """3x3 convolution without bias, ReLU, then normalisation: (N, in, H, W) -> (N, out, h, w).

    The lesson's with `norm="lesson"` and `order="relu-norm"`; other options are for comparison.
    It halves the resolution by default, and pads by 1 whatever the kernel, as the lesson does.
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
