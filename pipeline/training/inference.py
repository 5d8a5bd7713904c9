"""Inference over many images."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from models import ClassMapNetwork
from models.normalization import Normalisation
from pipeline.data.stored_images import Images, in_batches

BATCH = 500
"""Largest number of images in a batch."""
_BATCH_PIXELS = BATCH * 64 * 64


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    images: Images,
    normalisation: Normalisation,
    device: torch.device,
) -> Tensor:
    """Compute logits of uint8 images (N, H, W, C) without TTA, on the CPU: (N, K)."""
    network.eval()
    prepare = normalisation.on(device)
    batches = _batches_on(device, images)
    return torch.cat([network(prepare(batch)).cpu() for batch in batches])


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
    images: Images,
    normalisation: Normalisation,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Compute pooled features (N, C) and logits (N, K) of uint8 images, on the CPU."""
    network.eval()
    prepare = normalisation.on(device)
    parts = []
    for batch in _batches_on(device, images):
        features = network.features(prepare(batch))
        parts.append((features.mean((2, 3)).cpu(), network.head(features).cpu()))
    pooled, logits = zip(*parts, strict=True)
    return torch.cat(pooled), torch.cat(logits)


def _batches_on(device: torch.device, images: Images) -> Iterator[Tensor]:
    """Yield uint8 images (B, H, W, C) on `device`; there are fewer in a batch if they are large."""
    _, height, width, _ = images.shape
    size = max(1, min(BATCH, _BATCH_PIXELS // (height * width)))
    return (torch.from_numpy(batch).to(device) for batch in in_batches(images, size))
