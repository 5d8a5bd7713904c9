"""RandAugment (Cubuk et al., 2020, arXiv 1909.13719): two random operations on each image."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor

OPERATIONS = 2
"""Number of operations that each image gets."""

Operation = Callable[[Tensor, float], Tensor]
"""uint8 (N, C, H, W) and a strength of -1 to 1 to images of the same kind."""


def _torchvision() -> Any:
    """Return torchvision's functions, whose import takes seconds and which few recipes need."""
    from torchvision.transforms.v2 import functional

    return functional


def _affine(
    images: Tensor,
    *,
    degrees: float = 0.0,
    shift: tuple[float, float] = (0.0, 0.0),
    shear: tuple[float, float] = (0.0, 0.0),
) -> Tensor:
    """Rotate, shift by a share of the height and width, or shear by an angle in degrees."""
    height, width = images.shape[2:]
    moved: Tensor = _torchvision().affine(
        images,
        angle=degrees,
        translate=[shift[0] * width, shift[1] * height],
        scale=1.0,
        shear=list(shear),
        interpolation=_torchvision().InterpolationMode.BILINEAR,
        fill=None,
    )
    return moved


def _saturate(images: Tensor, strength: float) -> Tensor:
    if images.shape[1] != 3:
        return images
    saturated: Tensor = _torchvision().adjust_saturation(images, 1 + 0.9 * strength)
    return saturated


_SHEAR = math.degrees(math.atan(0.3))
# Those of the paper, at their largest magnitude.
_OPERATIONS: tuple[Operation, ...] = (
    lambda images, _: images,
    lambda images, _: _torchvision().autocontrast(images),
    lambda images, _: _torchvision().equalize(images),
    lambda images, strength: _affine(images, degrees=30 * strength),
    lambda images, strength: _affine(images, shear=(_SHEAR * strength, 0.0)),
    lambda images, strength: _affine(images, shear=(0.0, _SHEAR * strength)),
    lambda images, strength: _affine(images, shift=(0.3 * strength, 0.0)),
    lambda images, strength: _affine(images, shift=(0.0, 0.3 * strength)),
    lambda images, strength: _torchvision().posterize(images, 8 - round(4 * abs(strength))),
    lambda images, strength: _torchvision().solarize(images, min(255.0, 256 * (1 - abs(strength)))),
    lambda images, strength: _torchvision().adjust_brightness(images, 1 + 0.9 * strength),
    lambda images, strength: _torchvision().adjust_contrast(images, 1 + 0.9 * strength),
    lambda images, strength: _torchvision().adjust_sharpness(images, 1 + 0.9 * strength),
    _saturate,
)
KINDS = len(_OPERATIONS)


def draw_operations(count: int, rng: Generator) -> Tensor:
    """Draw the operations of `count` images: int64 (2 * OPERATIONS, count), on the CPU.

    For each operation there are a row of kinds, and one of signs, 0 or 1.
    """
    rows = [torch.randint(most, (count,), generator=rng) for most in (KINDS, 2) * OPERATIONS]
    return torch.stack(rows)


def randaugment(images_nhwc: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Change uint8 images (N, H, W, C) by `drawn` of `draw_operations`; `strength` is 0 to 1."""
    images = images_nhwc.permute(0, 3, 1, 2).clone(memory_format=torch.contiguous_format)
    for kinds, signs in drawn.view(OPERATIONS, 2, -1):
        for group in (2 * kinds + signs).unique().tolist():
            operation, sign = _OPERATIONS[group // 2], 2 * (group % 2) - 1
            chosen = ((2 * kinds + signs) == group).nonzero()[:, 0].to(images.device)
            images[chosen] = operation(images[chosen], sign * strength)
    return images.permute(0, 2, 3, 1)
