"""Random crops and flips of uint8 images, a whole batch in one gather."""

import torch
from torch import Generator, Tensor


def pad_reflect(images_nhwc: Tensor, padding: int) -> Tensor:
    """Add `padding` mirrored pixels at each side: (N, H, W, C) -> (N, H + 2p, W + 2p, C)."""
    if padding == 0:
        return images_nhwc
    height, width = images_nhwc.shape[1:3]
    rows = _mirrored(height, padding).to(images_nhwc.device)
    columns = _mirrored(width, padding).to(images_nhwc.device)
    return images_nhwc[:, rows][:, :, columns]


def random_crops(
    padded_nhwc: Tensor, indices: Tensor, padding: int, *, flip: bool, rng: Generator
) -> Tensor:
    """Take images at `indices` at a random offset, mirrored with probability 1/2 if `flip`.

    (N, H + 2p, W + 2p, C), (B,) -> (B, H, W, C). `rng` is a CPU generator, so that a seed draws
    the same crops on every device.
    """
    count, device = len(indices), padded_nhwc.device
    height, width = (size - 2 * padding for size in padded_nhwc.shape[1:3])
    top = torch.randint(2 * padding + 1, (count, 1), generator=rng)
    left = torch.randint(2 * padding + 1, (count, 1), generator=rng)
    rows = top + torch.arange(height)
    columns = left + torch.arange(width)
    if flip:
        mirrored = torch.rand(count, 1, generator=rng) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    return padded_nhwc[
        indices.to(device)[:, None, None],
        rows.to(device)[:, :, None],
        columns.to(device)[:, None, :],
    ]


def _mirrored(size: int, padding: int) -> Tensor:
    if padding >= size:
        raise ValueError(f"padding {padding} needs images of more than {padding} pixels")
    positions = torch.arange(-padding, size + padding).abs()
    return torch.where(positions < size, positions, 2 * (size - 1) - positions)
