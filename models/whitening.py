"""First layer whose kernel is measured instead of learnt: it whitens image patches."""

import torch
from torch import Tensor, nn


class WhitenedConv(nn.Module):
    """3x3 convolution to the leading eigenvectors of image patches, and their negatives.

    (N, C, H, W) -> (N, out, H, W). Its outputs are uncorrelated and of equal variance over the
    images that `measure` saw (Jordan, 2024, arXiv 2404.00498, after Page, 2019). Of the 9 C
    directions of a patch it keeps the `out` / 2 with the largest variance. The kernel is fixed; the
    bias is learnt.

    Raises:
        ValueError: `out_channels` is odd, or more than twice the directions of a patch.

    """

    weight: Tensor

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        if out_channels % 2 or out_channels > 18 * in_channels:
            raise ValueError(
                f"whiten: the first width must be even and at most {18 * in_channels}, "
                f"not {out_channels}"
            )
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.register_buffer("weight", torch.zeros(out_channels, in_channels, 3, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Filter normalised images."""
        return nn.functional.conv2d(images, self.weight, self.bias, padding=1)

    @torch.no_grad()
    def measure(self, images: Tensor, epsilon: float = 5e-4) -> None:
        """Set the kernel from normalised images (N, C, H, W)."""
        channels = images.shape[1]
        patches = nn.functional.unfold(images.float(), 3).transpose(1, 2).reshape(-1, 9 * channels)
        patches = patches - patches.mean(0)
        covariance = patches.T.double() @ patches.double() / len(patches)
        variances, directions = torch.linalg.eigh(covariance)
        kept = len(self.weight) // 2
        scaled = directions / (variances + epsilon).sqrt()
        kernels = scaled.T.flip(0)[:kept].reshape(kept, channels, 3, 3)
        self.weight.copy_(torch.cat([kernels, -kernels]).to(self.weight))
