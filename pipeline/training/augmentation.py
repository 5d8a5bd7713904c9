"""Random crops, flips, affine maps, cutout, CutMix and corruptions of a batch."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor, nn

from pipeline.training.corruptions import Corruptions, send
from pipeline.training.recipe import Augmentation
from pipeline.training.resident_images import ResidentImages


def pad_reflect(images_nhwc: Tensor, padding: int) -> Tensor:
    """Add `padding` mirrored pixels at each side: (N, H, W, C) -> (N, H + 2p, W + 2p, C)."""
    if padding == 0:
        return images_nhwc
    height, width = images_nhwc.shape[1:3]
    rows = _mirrored(height, padding).to(images_nhwc.device)
    columns = _mirrored(width, padding).to(images_nhwc.device)
    return images_nhwc[:, rows][:, :, columns]


def affine(images_nhwc: Tensor, strengths: Tensor) -> Tensor:
    """Rotate, enlarge or reduce, and shear each image about its centre: uint8 (N, H, W, C).

    `strengths` (3, N) are -1 to 1, for 20 degrees, for a factor of 1.2, and for a shear of 0.2.
    What lies outside continues the image's edge.
    """
    angle, zoom, shear = strengths[0] * (math.pi / 9), 1.2 ** strengths[1], 0.2 * strengths[2]
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros_like(angle)
    first = torch.stack([cos, cos * shear - sin, zero], 1)
    second = torch.stack([sin, sin * shear + cos, zero], 1)
    levels = images_nhwc.permute(0, 3, 1, 2).float()
    grid = nn.functional.affine_grid(
        torch.stack([first, second], 1), list(levels.shape), align_corners=False
    )
    moved = nn.functional.grid_sample(levels, grid, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8).permute(0, 2, 3, 1)


class Mixture(NamedTuple):
    """CutMix of a batch; on the images' device."""

    partners: Tensor
    """(B,) indices of the images that the boxes come from."""
    own: Tensor
    """(B,) share of its own pixels in each image, float32, which is also its label's weight."""


class Drawn(NamedTuple):
    """Augmented images of a batch."""

    images_nhwc: Tensor
    """uint8 (B, H, W, C)."""
    mixture: Mixture | None = None
    """None without CutMix."""
    before_nhwc: Tensor | None = None
    """The same images before they were corrupted; None without corruptions."""
    outliers: Tensor | None = None
    """(B,) True for pictures of no class; None without corruptions."""


class Augmenter:
    """Draws augmented batches of images.

    Random numbers come from a CPU generator, so that a seed gives the same on every device. Only a
    few numbers for each image are sent to the device, in one transfer: more would make a GPU wait.

    Args:
        images: the training images.
        choice: the augmentations.
        rng: chooses the images that `alternating` mirrors in odd epochs or in even ones.
        paint: (C,), the mean colour, uint8. Cutout covers with it, and normalisation makes it zero.

    """

    def __init__(
        self, images: ResidentImages, choice: Augmentation, rng: Generator, *, paint: Tensor
    ) -> None:
        self._images, self._choice, self._device = images, choice, images.device
        self._size = images.shape[1], images.shape[2]
        self._rows, self._columns = (
            _mirrored(size, choice.pad).to(self._device) for size in self._size
        )
        self._mirrored_first = torch.rand(len(images), generator=rng) < 0.5
        self._paint = paint.to(self._device)
        self._corruptions = None
        if choice.corruptions or choice.outliers:
            self._corruptions = Corruptions(
                choice.corruptions, choice.outliers, images.shape[1:], rng, self._device
            )

    def draw(self, indices: Tensor, epoch: int, rng: Generator, part: slice = slice(None)) -> Drawn:
        """Augment the images at `indices`, (B,).

        If several processes share the batch, all draw the same, and each takes its `part`. With
        `cutmix`, an image may contain a box of another image of the batch.
        """
        drawn = self._composed(indices, epoch, rng, part)
        if self._choice.affine:
            numbers = 2 * torch.rand(3, len(indices), generator=rng)[:, part] - 1
            turned = affine(drawn.images_nhwc, self._send(self._choice.affine * numbers))
            drawn = drawn._replace(images_nhwc=turned)
        if self._corruptions is None:
            return drawn
        numbers = self._corruptions.draw(len(indices), rng)[:, part]
        before = drawn.images_nhwc
        return drawn._replace(
            images_nhwc=self._corruptions.apply(before, numbers),
            before_nhwc=before,
            outliers=self._send(numbers[0] < 0),
        )

    def _composed(self, indices: Tensor, epoch: int, rng: Generator, part: slice) -> Drawn:
        count, choice = len(indices), self._choice
        top = torch.randint(2 * choice.pad + 1, (count,), generator=rng)
        left = torch.randint(2 * choice.pad + 1, (count,), generator=rng)
        mirrored = torch.zeros(count, dtype=torch.bool)
        if choice.flip != "none":
            mirrored = self._mirrored(indices, epoch, rng)
        crops = torch.stack([indices, top, left, mirrored.long()])
        squares = self._squares(count, rng) if choice.cutout else None
        boxes = self._boxes(count, rng) if choice.cutmix else None
        images = self._crop(crops[:, part])
        square = None if squares is None else self._mask(squares[:, part])
        if boxes is None:
            return Drawn(images if square is None else torch.where(square, self._paint, images))
        partners = crops[:, torch.randperm(count, generator=rng)][:, part]
        box = self._mask(boxes[:, part])
        if square is not None:
            square &= ~box.any((1, 2, 3), keepdim=True)
            images = torch.where(square, self._paint, images)
        own = 1 - box.float().mean((1, 2, 3))
        return Drawn(
            torch.where(box, self._crop(partners), images), Mixture(self._send(partners[0]), own)
        )

    def _send(self, numbers: Tensor) -> Tensor:
        return send(numbers, self._device)

    def _crop(self, crops: Tensor) -> Tensor:
        """Crop the padded images: int64 (index, top, left, mirrored), (4, B) -> (B, H, W, C)."""
        images, places = self._images.select(crops[0])
        indices, top, left, mirrored = self._send(torch.cat([places[None], crops[1:]]))[:, :, None]
        height, width = (torch.arange(size, device=self._device) for size in self._size)
        rows, columns = self._rows[top + height], left + width
        columns = self._columns[torch.where(mirrored.bool(), columns.flip(1), columns)]
        windows: Tensor = images[indices[:, :, None], rows[:, :, None], columns[:, None, :]]
        return windows

    def _mask(self, rectangles: Tensor) -> Tensor:
        """Mask the pixels inside: int64 (top, height, left, width), (4, B) -> (B, H, W, 1)."""
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
        """Draw boxes of the image's shape, with uniform areas as in the paper, or of size 0."""
        share = torch.rand(count, generator=rng).sqrt()
        chosen = torch.rand(count, generator=rng) < self._choice.cutmix
        height, width = ((share * size).round().long() * chosen for size in self._size)
        return self._rectangles(height, width, rng)

    def _rectangles(self, height: Tensor, width: Tensor, rng: Generator) -> Tensor:
        """Draw the places of rectangles: int64 (4, B), their top, height, left and width.

        Their centres lie anywhere in the image, so that they may extend beyond its edges.
        """
        top = torch.randint(self._size[0], (len(height),), generator=rng) - height // 2
        left = torch.randint(self._size[1], (len(width),), generator=rng) - width // 2
        return torch.stack([top, height, left, width])


def _mirrored(size: int, padding: int) -> Tensor:
    if padding >= size:
        raise ValueError(f"padding {padding} needs images of more than {padding} pixels")
    positions = torch.arange(-padding, size + padding).abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)
