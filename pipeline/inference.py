"""A network's answers for many images."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

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
