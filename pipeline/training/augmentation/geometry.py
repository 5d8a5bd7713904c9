"""Padding by reflection, and affine maps, of a batch of images."""

import math

import torch
from torch import Tensor, nn


def pad_reflect(images_nhwc: Tensor, padding: int) -> Tensor:
    """Add `padding` mirrored pixels at each side: (N, H, W, C) -> (N, H + 2p, W + 2p, C)."""
    if padding == 0:
        return images_nhwc
    height, width = images_nhwc.shape[1:3]
    rows = mirrored_positions(height, padding).to(images_nhwc.device)
    columns = mirrored_positions(width, padding).to(images_nhwc.device)
    return images_nhwc[:, rows][:, :, columns]


def affine(images_nhwc: Tensor, strengths: Tensor) -> Tensor:
    """Rotate, enlarge or reduce, and shear each image about its centre: uint8 (N, H, W, C).

    `strengths` (3, N) are -1 to 1, for 20 degrees, for a factor of 1.2, and for a shear of 0.2.
    What lies outside continues the image's edge.
    """
    angle, zoom, shear = strengths[0] * (math.pi / 9), 1.2 ** strengths[1], 0.2 * strengths[2]
    cos, sin, zero = angle.cos() / zoom, angle.sin() / zoom, torch.zeros_like(angle)
    # The grid counts both sides from -1 to 1, whatever their lengths.
    height, width = images_nhwc.shape[1:3]
    first = torch.stack([cos, (cos * shear - sin) * (height / width), zero], 1)
    second = torch.stack([sin * (width / height), sin * shear + cos, zero], 1)
    levels = images_nhwc.permute(0, 3, 1, 2).float()
    grid = nn.functional.affine_grid(
        torch.stack([first, second], 1), list(levels.shape), align_corners=False
    )
    moved = nn.functional.grid_sample(levels, grid, padding_mode="border", align_corners=False)
    return moved.round().to(torch.uint8).permute(0, 2, 3, 1)


def mirrored_positions(size: int, padding: int) -> Tensor:
    """Return where each pixel of a padded row comes from, mirrored at its ends: (size + 2p,).

    Raises:
        ValueError: the padding is not smaller than the row.

    """
    if padding >= size:
        raise ValueError(f"padding {padding} needs images of more than {padding} pixels")
    positions = torch.arange(-padding, size + padding).abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)
