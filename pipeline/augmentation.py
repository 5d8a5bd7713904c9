"""Random crops, mirror images, painted squares and boxes of other images, a batch at a time."""

from typing import NamedTuple

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


class Mixture(NamedTuple):
    """What of each image of a batch belongs to another one."""

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

    def draw(self, indices: Tensor, epoch: int, rng: Generator, part: slice = slice(None)) -> Drawn:
        """The images at `indices`, (B,), as this epoch sees them.

        Of a batch that several processes share, each takes its `part` of what is drawn for all.
        Where `cutmix` is chosen, an image is painted over or mixed with another of the batch.
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

        def crop(chosen: slice | Tensor) -> Tensor:
            return self._padded[
                indices[chosen].to(device)[:, None, None],
                rows[chosen].to(device)[:, :, None],
                columns[chosen].to(device)[:, None, :],
            ]

        crops = crop(part)
        squares = self._squares(count, rng) if self._choice.cutout else None
        boxes = self._boxes(count, rng) if self._choice.cutmix else None
        if squares is not None:
            if boxes is not None:
                squares &= ~boxes.any((1, 2, 3), keepdim=True)
            crops = torch.where(squares[part].to(device), self._paint, crops)
        if boxes is None:
            return Drawn(crops)
        others = torch.randperm(count, generator=rng)
        crops = torch.where(boxes[part].to(device), crop(others[part]), crops)
        own = 1 - boxes.float().mean((1, 2, 3))
        return Drawn(crops, Mixture(indices[others[part]], own[part]))

    def _mirrored(self, indices: Tensor, epoch: int, rng: Generator) -> Tensor:
        if self._choice.flip == "random":
            return torch.rand(len(indices), generator=rng) < 0.5
        # Every pair of epochs shows each image both ways (Jordan, 2024, arXiv 2404.00498).
        return self._mirrored_first[indices] ^ bool(epoch % 2)

    def _squares(self, count: int, rng: Generator) -> Tensor:
        side = torch.full((count, 1), self._choice.cutout)
        return self._rectangles((side, side), rng)

    def _boxes(self, count: int, rng: Generator) -> Tensor:
        """Of the image's shape, their areas uniform as in the paper; most images have none."""
        share = torch.rand((count, 1), generator=rng).sqrt()
        chosen = torch.rand((count, 1), generator=rng) < self._choice.cutmix
        height, width = ((share * size).round().long() * chosen for size in self._size)
        return self._rectangles((height, width), rng)

    def _rectangles(self, sides: tuple[Tensor, Tensor], rng: Generator) -> Tensor:
        """Masks (B, H, W, 1) of rectangles of so many pixels, (B, 1) high and wide."""
        inside = []
        for size, side in zip(self._size, sides, strict=True):
            # The centre lies anywhere in the image; the rectangle may reach over its edge.
            first = torch.randint(size, (len(side), 1), generator=rng) - side // 2
            positions = torch.arange(size)
            inside.append((positions >= first) & (positions < first + side))
        return inside[0][:, :, None, None] & inside[1][:, None, :, None]


def _mirrored(size: int, padding: int) -> Tensor:
    if padding >= size:
        raise ValueError(f"padding {padding} needs images of more than {padding} pixels")
    positions = torch.arange(-padding, size + padding).abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)
