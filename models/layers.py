"""The building blocks: a convolution with normalisation and ReLU, a residual sum, two scales."""

import torch
from torch import Tensor, nn

from models.norms import make_norm
from models.options import NetworkOptions


class ConvLayer(nn.Sequential):
    """Convolution, normalisation and ReLU, in the order that `options` choose.

    (N, in, H, W) -> (N, out, H / stride, W / stride), rounded up, with the default padding. With
    `pool`, the largest of each 2x2 follow the convolution, so that the rest has a quarter of the
    work; an odd last row or column is left out. The convolution has a bias only if nothing
    normalises its output, which would take a bias away (or, behind the ReLU, has one of its own).
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
        pool: bool = False,
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
        if pool:
            layers.insert(1, nn.MaxPool2d(2))
        super().__init__(*layers)


class Residual(nn.Module):
    """x + branch(x) (He et al., 2015), for a branch that keeps the shape."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        out: Tensor = x + self.branch(x)
        return out


class Hypercolumn(nn.Module):
    """x beside branch(x), enlarged to x's resolution (Hariharan et al., 2015).

    For a branch at half of x's resolution, odd sides rounded up.
    """

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + C', H, W) for a branch of C' channels."""
        return torch.cat([x, nn.functional.interpolate(self.branch(x), x.shape[2:])], 1)
