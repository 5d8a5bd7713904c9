"""Random crops, flips, affine maps, cutout, CutMix, mixup and corruptions of a batch."""

from typing import NamedTuple

import torch
from torch import Generator, Tensor

from pipeline.training.augmentation.corruptions import Corruptions, send
from pipeline.training.augmentation.geometry import affine, mirrored_positions
from pipeline.training.augmentation.randaugment import draw_operations, randaugment
from pipeline.training.recipe import Augmentation
from pipeline.training.resident_images import ResidentImages


def blended(images_nhwc: Tensor, others_nhwc: Tensor, kept: Tensor) -> Tensor:
    """Blend each image with another, uint8 (N, H, W, C); `kept`, (N,), is the share of its own."""
    levels = torch.lerp(others_nhwc.float(), images_nhwc.float(), kept[:, None, None, None])
    return levels.round().to(torch.uint8)


class Mixture(NamedTuple):
    """CutMix and mixup of a batch; on the images' device."""

    partners: Tensor
    """(B,) indices of the images that the boxes and blends come from."""
    own: Tensor
    """(B,) share of its own pixels in each image, float32, which is also its label's weight."""


class Drawn(NamedTuple):
    """Augmented images of a batch."""

    images_nhwc: Tensor
    """uint8 (B, H, W, C)."""
    mixture: Mixture | None = None
    """None without CutMix and mixup."""
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
            mirrored_positions(size, choice.pad).to(self._device) for size in self._size
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
        if choice.randaugment:
            crops = torch.cat([crops, draw_operations(count, rng)])
        shares = self._shares(count, boxes, rng) if choice.mixup else None
        images = self._view(crops[:, part])
        box = None if boxes is None else self._mask(boxes[:, part])
        if squares is not None:
            images = self._covered(images, self._mask(squares[:, part]), box)
        if box is None and shares is None:
            return Drawn(images)
        partners = crops[:, torch.randperm(count, generator=rng)][:, part]
        return self._mixed(images, partners, box, None if shares is None else shares[part])

    def _covered(self, images_nhwc: Tensor, square: Tensor, box: Tensor | None) -> Tensor:
        """Cover the `square` of each image, (B, H, W, 1), unless it has a `box` of another one."""
        if box is not None:
            square &= ~box.any((1, 2, 3), keepdim=True)
        return torch.where(square, self._paint, images_nhwc)

    def _mixed(
        self, images_nhwc: Tensor, partners: Tensor, box: Tensor | None, shares: Tensor | None
    ) -> Drawn:
        """Put boxes of the `partners` into the images, or blend them; their numbers as in `_view`.

        `box` is (B, H, W, 1), and `shares`, (B,), are what the images keep of themselves.
        """
        others = self._view(partners)
        own = torch.ones(len(others), device=self._device)
        if box is not None:
            own -= box.float().mean((1, 2, 3))
            images_nhwc = torch.where(box, others, images_nhwc)
        if shares is not None:
            kept = self._send(shares)
            images_nhwc, own = blended(images_nhwc, others, kept), own * kept
        return Drawn(images_nhwc, Mixture(self._send(partners[0]), own))

    def _send(self, numbers: Tensor) -> Tensor:
        return send(numbers, self._device)

    def _view(self, numbers: Tensor) -> Tensor:
        """Crop images, and change them: int64 (4 or 4 + changes, B) -> (B, H, W, C)."""
        crops = self._crop(numbers[:4])
        if not self._choice.randaugment:
            return crops
        return randaugment(crops, numbers[4:], self._choice.randaugment)

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

    def _shares(self, count: int, boxes: Tensor | None, rng: Generator) -> Tensor:
        """Draw the share that each image keeps of itself when it is blended: (B,), 1 if it is not.

        An image with a box of another one is not blended.
        """
        share = self._choice.mixup / (1 - self._choice.cutmix)
        chosen = torch.rand(count, generator=rng) < share
        if boxes is not None:
            chosen &= boxes[1] * boxes[3] == 0
        return torch.where(chosen, torch.rand(count, generator=rng), 1.0)

    def _rectangles(self, height: Tensor, width: Tensor, rng: Generator) -> Tensor:
        """Draw the places of rectangles: int64 (4, B), their top, height, left and width.

        Their centres lie anywhere in the image, so that they may extend beyond its edges.
        """
        top = torch.randint(self._size[0], (len(height),), generator=rng) - height // 2
        left = torch.randint(self._size[1], (len(width),), generator=rng) - width // 2
        return torch.stack([top, height, left, width])
