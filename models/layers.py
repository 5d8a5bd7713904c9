"""Building blocks: a convolution with its normalisation and ReLU, and a residual sum."""

from torch import Tensor, nn

from models.norm_layers import make_norm
from models.options import NetworkOptions


class ConvLayer(nn.Sequential):
    """Convolution, normalisation and ReLU, in the order that `options` choose.

    (N, in, H, W) -> (N, out, H / stride, W / stride), rounded up, with the default padding. The
    convolution has a bias only without normalisation: a normalisation would cancel it or, after
    the ReLU, has a bias of its own.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        options: NetworkOptions,
        *,
        kernel: int = 3,
        stride: int = 1,
        padding: int | None = None,
    ) -> None:
        padding = kernel // 2 if padding is None else padding
        bias = options.norm == "none"
        layers: list[nn.Module] = [
            nn.Conv2d(in_channels, out_channels, kernel, stride, padding, bias=bias),
            nn.ReLU(inplace=True),
        ]
        if options.norm != "none":
            norm = make_norm(options.norm, out_channels)
            layers.insert(1 if options.order == "norm-relu" else 2, norm)
        super().__init__(*layers)


class Residual(nn.Module):
    """Residual sum x + branch(x) (He et al., 2015), for a branch that keeps the shape."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Add the branch: (N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = x + self.branch(x)
        return out
