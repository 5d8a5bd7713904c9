"""Training images, in the device's memory if they fit."""

import math

import torch
from torch import Tensor

from pipeline.data.stored_images import Images, StoredImages

# Larger data on the CPU is read from its file, a batch at a time.
_MOST_BYTES_ON_CPU = 512 << 20
# The rest is for the network, its gradients and its activations.
_SHARE_OF_GPU = 0.5


class ResidentImages:
    """Images to draw batches from, on a device; those in a file stay there if they are too large.

    Args:
        images: uint8 (N, H, W, C).
        device: the device of the batches.

    """

    def __init__(self, images: Images, device: torch.device) -> None:
        self.shape, self.device = images.shape, device
        self._images = images
        self._resident: Tensor | None = None
        if not isinstance(images, StoredImages) or math.prod(images.shape) <= _room(device):
            self._resident = torch.from_numpy(images[:]).to(device)

    def __len__(self) -> int:
        return len(self._images)

    def select(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return images on the device, and the places in them of those at `indices`, (B,).

        Both index tensors are int64 on the CPU.
        """
        if self._resident is not None:
            return self._resident, indices
        images = torch.from_numpy(self._images[indices.numpy()])
        return images.to(self.device), torch.arange(len(indices))

    def take(self, indices: Tensor) -> Tensor:
        """Copy the images at `indices`, (B,), which are on the CPU, to the device: (B, H, W, C)."""
        images, places = self.select(indices)
        return images[places.to(self.device)]


def _room(device: torch.device) -> int:
    if device.type != "cuda":
        return _MOST_BYTES_ON_CPU
    free, _ = torch.cuda.mem_get_info(device)
    return int(_SHARE_OF_GPU * free)
