"""Inference over many images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import ClassMapNetwork
from models.normalization import Normalisation

BATCH = 500


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    device: torch.device,
) -> Tensor:
    """Compute logits of uint8 images (N, H, W, C) without TTA, on the CPU: (N, K)."""
    network.eval()
    prepare = normalisation.on(device)
    batches = torch.split(torch.from_numpy(images), BATCH)
    return torch.cat([network(prepare(batch.to(device))).cpu() for batch in batches])


@torch.no_grad()
def multiply_accumulates(
    network: nn.Module, normalisation: Normalisation, image_nhwc: Tensor
) -> int:
    """Count the multiplications of the forward pass of one image, uint8 (1, H, W, C)."""
    network.eval()
    prepared = normalisation.on(image_nhwc.device)(image_nhwc)
    with FlopCounterMode(display=False) as counter:
        network(prepared)
    return int(counter.get_total_flops()) // 2


@torch.inference_mode()
def look_inside(
    network: ClassMapNetwork,
    images: NDArray[np.uint8],
    normalisation: Normalisation,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Compute pooled features (N, C) and logits (N, K) of uint8 images, on the CPU."""
    network.eval()
    prepare = normalisation.on(device)
    parts = []
    for batch in torch.split(torch.from_numpy(images), BATCH):
        features = network.features(prepare(batch.to(device)))
        parts.append((features.mean((2, 3)).cpu(), network.head(features).cpu()))
    pooled, logits = zip(*parts, strict=True)
    return torch.cat(pooled), torch.cat(logits)
