"""ROAD, remove and debias (Rong et al., 2022), by pytorch-grad-cam's implementation."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation.saliency import Images, Look, Maps, enlarged, look_at, ranks_of

PERCENTILES = (20, 40, 60, 80)
MOST_IMAGES = 64
MOST_PIXELS = 128 * 128
"""Of an image: filling in solves a system of as many equations."""


def road(
    look: Look, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> float | None:
    """Half of how much more probable a class is without its map's lowest than without its highest.

    Mean over the first 64 images (N, H, W, C). What is removed is filled in from its neighbours,
    with a little noise, so that its shape tells nothing. None for images of more than 128x128
    pixels.
    """
    from pytorch_grad_cam.metrics.road import ROADCombined

    height, width = images.shape[1:3]
    if height * width > MOST_PIXELS:
        return None
    images, classes, maps = images[:MOST_IMAGES], classes[:MOST_IMAGES], maps[:MOST_IMAGES]
    # Ranks, so that no two pixels are equal: of a constant map all would go at once.
    ranks = np.stack([ranks_of(enlarged(map_hw, height, width)) for map_hw in maps])
    ranked = (1 - ranks).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    targets = [_Target(int(label)) for label in classes]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # It gives tensors to numpy's functions, which numpy 2 allows and grumbles about.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(0)
        gains = ROADCombined(list(PERCENTILES))(pixels, ranked, targets, _Network(look))
    return float(np.mean(gains))


class _Network(nn.Module):
    """The network as served, for pixels of 0 to 1: (N, C, H, W) -> probabilities (N, K)."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self._look = look

    def forward(self, pixels: Tensor) -> Tensor:
        levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        images = levels.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(look_at(self._look, images, "probabilities"))


class _Target:
    def __init__(self, label: int) -> None:
        self._label = label

    def __call__(self, probabilities: Tensor) -> Tensor:
        return probabilities[self._label]
