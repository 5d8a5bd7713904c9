"""Random crops, mirror images, painted squares and boxes of other images, a batch at a time."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from pipeline.training.recipe import Augmentation


def pad_reflect(images_nhwc: Tensor, padding: int) -> Tensor:
    """Add `padding` mirrored pixels at each side: (N, H, W, C) -> (N, H + 2p, W + 2p, C)."""
    if padding == 0:
        return images_nhwc
    height, width = images_nhwc.shape[1:3]
    rows = _mirrored(height, padding).to(images_nhwc.device)
    columns = _mirrored(width, padding).to(images_nhwc.device)
    return images_nhwc[:, rows][:, :, columns]


class Mixture(NamedTuple):
    """What of each image of a batch belongs to another one; on the images' device."""

    partners: Tensor
    """(B,) indices of the images that the boxes are from."""
    own: Tensor
    """(B,) share of its pixels that each image kept, float32; its label weighs as much."""


class Drawn(NamedTuple):
    """Images as one epoch sees them."""

    images_nhwc: Tensor
    """uint8 (B, H, W, C)."""
    mixture: Mixture | None = None
    """Where images are mixed."""


class Augmenter:
    """Draws crops, mirror images, painted squares and mixtures of images that lie on a device.

    What is drawn comes from a CPU generator, so that a seed gives the same on every device. Only
    a few numbers an image are sent there, in one transfer: larger ones would make a GPU wait.

    Args:
        images_nhwc: uint8 (N, H, W, C), on the device where the batches are wanted.
        choice: what is changed at random.
        rng: decides here, for `alternating`, which images are mirrored first.

    """

    def __init__(self, images_nhwc: Tensor, choice: Augmentation, rng: Generator) -> None:
        self._choice = choice
        self._size = images_nhwc.shape[1], images_nhwc.shape[2]
        self._padded = pad_reflect(images_nhwc, choice.pad)
        self._mirrored_first = torch.rand(len(images_nhwc), generator=rng) < 0.5
        # What normalisation brings to zero.
        self._paint = images_nhwc.float().mean((0, 1, 2)).round().to(torch.uint8)

    def draw(self, indices: Tensor, epoch: int, rng: Generator, part: slice = slice(None)) -> Drawn:
        """The images at `indices`, (B,), as this epoch sees them.

        Of a batch that several processes share, each takes its `part` of what is drawn for all.
        Where `cutmix` is chosen, an image is painted over or mixed with another of the batch.
        """
        count, choice = len(indices), self._choice
        top = torch.randint(2 * choice.pad + 1, (count,), generator=rng)
        left = torch.randint(2 * choice.pad + 1, (count,), generator=rng)
        mirrored = torch.zeros(count, dtype=torch.bool)
        if choice.flip != "none":
            mirrored = self._mirrored(indices, epoch, rng)
        crops = torch.stack([indices, top, left, mirrored.long()])
        squares = self._squares(count, rng) if choice.cutout else None
        boxes = self._boxes(count, rng) if choice.cutmix else None
        images = self._crop(self._send(crops[:, part]))
        square = None if squares is None else self._mask(squares[:, part])
        if boxes is None:
            return Drawn(images if square is None else torch.where(square, self._paint, images))
        partners = self._send(crops[:, torch.randperm(count, generator=rng)][:, part])
        box = self._mask(boxes[:, part])
        if square is not None:
            square &= ~box.any((1, 2, 3), keepdim=True)
            images = torch.where(square, self._paint, images)
        own = 1 - box.float().mean((1, 2, 3))
        return Drawn(torch.where(box, self._crop(partners), images), Mixture(partners[0], own))

    def _send(self, numbers: Tensor) -> Tensor:
        """Copy to the images' device; a GPU copies page-locked memory without being waited for."""
        device = self._padded.device
        if device.type == "cpu":
            return numbers
        return numbers.pin_memory().to(device, non_blocking=True)

    def _crop(self, crops: Tensor) -> Tensor:
        """Windows of the images: int64 (index, top, left, mirrored), (4, B) -> (B, H, W, C)."""
        indices, top, left, mirrored = crops[:, :, None]
        height, width = (torch.arange(size, device=crops.device) for size in self._size)
        rows, columns = top + height, left + width
        columns = torch.where(mirrored.bool(), columns.flip(1), columns)
        windows: Tensor = self._padded[indices[:, :, None], rows[:, :, None], columns[:, None, :]]
        return windows

    def _mask(self, rectangles: Tensor) -> Tensor:
        """Pixels inside: int64 (top, height, left, width), (4, B) -> (B, H, W, 1)."""
        top, height, left, width = self._send(rectangles)[:, :, None]
        rows, columns = (torch.arange(size, device=top.device) for size in self._size)
        inside_rows = (rows >= top) & (rows < top + height)
        inside_columns = (columns >= left) & (columns < left + width)
        inside: Tensor = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
        return inside

    def _mirrored(self, indices: Tensor, epoch: int, rng: Generator) -> Tensor:
        if self._choice.flip == "random":
            return torch.rand(len(indices), generator=rng) < 0.5
        # Every pair of epochs shows each image both ways (Jordan, 2024, arXiv 2404.00498).
        return self._mirrored_first[indices] ^ bool(epoch % 2)

    def _squares(self, count: int, rng: Generator) -> Tensor:
        side = torch.full((count,), self._choice.cutout)
        return self._rectangles(side, side, rng)

    def _boxes(self, count: int, rng: Generator) -> Tensor:
        """Of the image's shape, their areas uniform as in the paper; most images have none."""
        share = torch.rand(count, generator=rng).sqrt()
        chosen = torch.rand(count, generator=rng) < self._choice.cutmix
        height, width = ((share * size).round().long() * chosen for size in self._size)
        return self._rectangles(height, width, rng)

    def _rectangles(self, height: Tensor, width: Tensor, rng: Generator) -> Tensor:
        """Top, height, left and width of rectangles so large, (B,): int64 (4, B).

        Their centres lie anywhere in the image, so that they may reach over its edges.
        """
        top = torch.randint(self._size[0], (len(height),), generator=rng) - height // 2
        left = torch.randint(self._size[1], (len(width),), generator=rng) - width // 2
        return torch.stack([top, height, left, width])


def _mirrored(size: int, padding: int) -> Tensor:
    if padding >= size:
        raise ValueError(f"padding {padding} needs images of more than {padding} pixels")
    positions = torch.arange(-padding, size + padding).abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)
