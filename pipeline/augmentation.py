"""Random crops, mirror images and painted squares of uint8 images, a batch in one gather."""

import torch
from torch import Generator, Tensor

from pipeline.recipe import Augmentation


def pad_reflect(images_nhwc: Tensor, padding: int) -> Tensor:
    """Add `padding` mirrored pixels at each side: (N, H, W, C) -> (N, H + 2p, W + 2p, C)."""
    if padding == 0:
        return images_nhwc
    height, width = images_nhwc.shape[1:3]
    rows = _mirrored(height, padding).to(images_nhwc.device)
    columns = _mirrored(width, padding).to(images_nhwc.device)
    return images_nhwc[:, rows][:, :, columns]


class Augmenter:
    """Draws crops, mirror images and painted squares from images that lie on a device.

    What is drawn comes from a CPU generator, so that a seed gives the same on every device.

    Args:
        images_nhwc: uint8 (N, H, W, C), on the device where the batches are wanted.
        choice: what is changed at random.
        rng: decides here, for `alternating`, which images are mirrored first.

    """

    def __init__(self, images_nhwc: Tensor, choice: Augmentation, rng: Generator) -> None:
        self._choice = choice
        self._size = images_nhwc.shape[1:3]
        self._padded = pad_reflect(images_nhwc, choice.pad)
        self._mirrored_first = torch.rand(len(images_nhwc), generator=rng) < 0.5
        # What normalisation brings to zero.
        self._paint = images_nhwc.float().mean((0, 1, 2)).round().to(torch.uint8)

    def draw(
        self, indices: Tensor, epoch: int, rng: Generator, part: slice = slice(None)
    ) -> Tensor:
        """The images at `indices`, (B,), as this epoch sees them: uint8 (B, H, W, C).

        Of a batch that several processes share, each takes its `part` of what is drawn for all.
        """
        count, device, padding = len(indices), self._padded.device, self._choice.pad
        height, width = self._size
        top = torch.randint(2 * padding + 1, (count, 1), generator=rng)
        left = torch.randint(2 * padding + 1, (count, 1), generator=rng)
        rows = top + torch.arange(height)
        columns = left + torch.arange(width)
        if self._choice.flip != "none":
            mirrored = self._mirrored(indices, epoch, rng)
            columns = torch.where(mirrored[:, None], columns.flip(1), columns)
        crops = self._padded[
            indices[part].to(device)[:, None, None],
            rows[part].to(device)[:, :, None],
            columns[part].to(device)[:, None, :],
        ]
        if self._choice.cutout:
            inside = self._squares(count, rng)[part]
            crops = torch.where(inside.to(device), self._paint, crops)
        return crops

    def _mirrored(self, indices: Tensor, epoch: int, rng: Generator) -> Tensor:
        if self._choice.flip == "random":
            return torch.rand(len(indices), generator=rng) < 0.5
        # Every pair of epochs shows each image both ways (Jordan, 2024, arXiv 2404.00498).
        return self._mirrored_first[indices] ^ bool(epoch % 2)

    def _squares(self, count: int, rng: Generator) -> Tensor:
        side, painted = self._choice.cutout, []
        for size in self._size:
            # The centre lies anywhere in the image; the square may reach over its edge.
            first = torch.randint(size, (count, 1), generator=rng) - side // 2
            positions = torch.arange(size)
            painted.append((positions >= first) & (positions < first + side))
        return painted[0][:, :, None, None] & painted[1][:, None, :, None]


def _mirrored(size: int, padding: int) -> Tensor:
    if padding >= size:
        raise ValueError(f"padding {padding} needs images of more than {padding} pixels")
    positions = torch.arange(-padding, size + padding).abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)
