"""ROAD, remove and debias (Rong et al., 2022), as implemented by pytorch-grad-cam."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.evaluation.saliency import Images, Infer, Maps, enlarged, infer_output, ranks_of

PERCENTILES = (20, 40, 60, 80)
MOST_IMAGES = 64
MOST_PIXELS = 128 * 128
"""Largest image: the imputation solves a linear system with one equation per removed pixel."""


def road(
    infer: Infer, images: Images, classes: NDArray[np.int64], maps: Sequence[Maps]
) -> float | None:
    """Measure how much more a class loses without its map's highest pixels than its lowest.

    Half of the difference of the class's probability with the lowest pixels removed and with the
    highest removed, as the mean over the first 64 images (N, H, W, C). Removed pixels are imputed
    from their neighbours with a little noise, so that their shape is no clue. None for images of
    more than 128x128 pixels.
    """
    from pytorch_grad_cam.metrics.road import ROADCombined

    height, width = images.shape[1:3]
    if height * width > MOST_PIXELS:
        return None
    images, classes, maps = images[:MOST_IMAGES], classes[:MOST_IMAGES], maps[:MOST_IMAGES]
    # Ranks make all pixels differ: those of a constant map would be removed all at once.
    ranks = np.stack([ranks_of(enlarged(map_hw, height, width)) for map_hw in maps])
    ranked = (1 - ranks).astype(np.float32)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    targets = [_Target(int(label)) for label in classes]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # The library passes tensors to numpy functions, which numpy 2 deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.manual_seed(0)
        gains = ROADCombined(list(PERCENTILES))(pixels, ranked, targets, _Network(infer))
    return float(np.mean(gains))


class _Network(nn.Module):
    """Served network for pixels from 0 to 1: (N, C, H, W) -> probabilities (N, K)."""

    def __init__(self, infer: Infer) -> None:
        super().__init__()
        self._infer = infer

    def forward(self, pixels: Tensor) -> Tensor:
        levels = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        images = levels.permute(0, 2, 3, 1).contiguous().numpy()
        return torch.from_numpy(infer_output(self._infer, images, "probabilities"))


class _Target:
    def __init__(self, label: int) -> None:
        self._label = label

    def __call__(self, probabilities: Tensor) -> Tensor:
        return probabilities[self._label]
