"""A network's answers for many images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models import ClassMapNetwork
from pipeline.normalisation import Normalisation

BATCH = 500


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    device: torch.device,
) -> Tensor:
    """Logits of uint8 images (N, H, W, C), one view each, on the CPU: (N, K)."""
    network.eval()
    prepare = normalisation.on(device)
    batches = torch.split(torch.from_numpy(images), BATCH)
    return torch.cat([network(prepare(batch.to(device))).cpu() for batch in batches])


@torch.inference_mode()
def look_inside(
    network: ClassMapNetwork,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Features averaged over positions and logits of uint8 images, on the CPU: (N, C), (N, K)."""
    network.eval()
    prepare = normalisation.on(device)
    parts = []
    for batch in torch.split(torch.from_numpy(images), BATCH):
        features = network.features(prepare(batch.to(device)))
        parts.append((features.mean((2, 3)).cpu(), network.head(features).cpu()))
    pooled, logits = zip(*parts, strict=True)
    return torch.cat(pooled), torch.cat(logits)
