"""Corruptions of training images, so that a network recognises photographs as people send them.

JPEG compression, blur, noise, a change of light, and mixing with other pictures (after PixMix,
Hendrycks et al., 2022, arXiv 2112.05135). All take and give uint8 (N, H, W, C) on any device, with
strengths for each image, so that the random numbers can come from elsewhere.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from torch import Generator, Tensor, nn

from pipeline.data.synthetic.pictures import draw_pictures
from pipeline.errors import RunError

PICTURES = 2000
"""Number of pictures to mix with."""
STRENGTHS = 4
"""Random numbers from 0 to 1 that each image has."""
_NOISE_VALUES = 1 << 20
_KERNEL = 7
SMALLEST_SIDE = 1 + _KERNEL // 2
"""Pixels that an image needs to be blurred."""

Table = tuple[tuple[float, ...], ...]

# Quantisation tables of the JPEG standard (ITU-T T.81, Annex K.1), row by row.
_LUMINANCE: Table = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE: Table = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF: RGB to YCbCr without its offset, and back.
_TO_YCBCR: Table = (
    (0.299, 0.587, 0.114),
    (-0.168736, -0.331264, 0.5),
    (0.5, -0.418688, -0.081312),
)
_TO_RGB: Table = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
# Orthonormal cosine transform of 8 values.
_COSINES: Table = tuple(
    tuple(
        math.cos(math.pi * (2 * place + 1) * wave / 16) / (2 if wave else math.sqrt(8))
        for place in range(8)
    )
    for wave in range(8)
)


class Corruptions:
    """Corrupts a share of the images, with the same chance for each kind, and twice it for JPEG.

    Args:
        share: of the images that are corrupted.
        outliers: share of the images that are replaced by a picture of no class.
        shape: (H, W, C) of the images.
        rng: draws the pictures and the noise.
        device: the device of the batches.

    Raises:
        RunError: a side of the images is shorter than `SMALLEST_SIDE`.
    """

    def __init__(
        self,
        share: float,
        outliers: float,
        shape: tuple[int, int, int],
        rng: Generator,
        device: torch.device,
    ) -> None:
        self._share, self._outliers = share, outliers
        height, width, channels = shape
        if min(height, width) < SMALLEST_SIDE:
            raise RunError(
                f"images of {width} x {height} pixels are too small for augmentation.corruptions "
                "and outliers: leave them out, or pass a larger --image-size"
            )
        seed = int(torch.randint(1 << 31, (), generator=rng))
        pictures = draw_pictures(
            np.random.default_rng(seed), PICTURES, height=height, width=width, channels=channels
        )
        self._pictures = torch.from_numpy(pictures).to(device)
        self._noise = torch.randn(_NOISE_VALUES, generator=rng).to(device)

    def draw(self, count: int, rng: Generator) -> Tensor:
        """Draw the numbers of a batch, on the CPU: float32 (1 + STRENGTHS, count).

        The first is the kind: 0 for an unchanged image, -1 for an outlier.
        """
        # Drawn for each image, so that every kind has its share in batches of any size.
        chance = torch.rand(count, generator=rng)
        turns = torch.randint(len(_TURNS), (count,), generator=rng)
        kinds = torch.tensor(_TURNS)[turns].float()
        kinds[chance >= self._outliers + self._share] = 0
        kinds[chance < self._outliers] = -1
        return torch.cat([kinds[None], torch.rand(STRENGTHS, count, generator=rng)])

    def apply(self, images_nhwc: Tensor, numbers: Tensor) -> Tensor:
        """Corrupt (N, H, W, C) by `numbers` (1 + STRENGTHS, N) of `draw`, which are on the CPU."""
        kinds = numbers[0].long()
        order = kinds.argsort(stable=True)
        counts = torch.bincount(kinds + 1, minlength=len(KINDS) + 2).tolist()
        # One transfer: each would make a GPU wait.
        sent = send(torch.cat([order[None].float(), numbers[1:, order]]), images_nhwc.device)
        outliers, _, *parts = zip(
            torch.split(sent[0].long(), counts), torch.split(sent[1:], counts, 1), strict=True
        )
        out = images_nhwc.clone()
        out[outliers[0]] = self._some_pictures(outliers[1][0])
        for corrupt, (chosen, strengths) in zip(KINDS, parts, strict=True):
            if len(chosen):
                out[chosen] = corrupt(self, out[chosen], strengths)
        return out

    def _jpeg(self, images_nhwc: Tensor, strengths: Tensor) -> Tensor:
        return jpeg(images_nhwc, (25 + 70 * strengths[0]).round())

    def _blur(self, images_nhwc: Tensor, strengths: Tensor) -> Tensor:
        along = 0.4 + 1.4 * strengths[0]
        across = 0.4 + (along - 0.4) * strengths[1]
        return blur(images_nhwc, along, across, math.pi * strengths[2])

    def _add_noise(self, images_nhwc: Tensor, strengths: Tensor) -> Tensor:
        """Add normal noise, of which a share grows with the brightness."""
        size = images_nhwc[0].numel()
        count = len(self._noise)
        starts = (strengths[2] * (count - size if size < count else count)).long()
        at = starts[:, None] + torch.arange(size, device=starts.device)
        noise = self._noise[at % count].view(images_nhwc.shape)
        deviation, speckle = 2 + 24 * strengths[0], strengths[1]
        levels = images_nhwc.float()
        growth = 1 - _wide(speckle) + _wide(speckle) * levels / 128
        return _as_bytes(levels + noise * _wide(deviation) * growth)

    def _relight(self, images_nhwc: Tensor, strengths: Tensor) -> Tensor:
        """Change contrast and brightness."""
        levels = images_nhwc.float()
        middle = levels.mean((1, 2, 3), keepdim=True)
        contrast, shift = 0.3 + 1.2 * strengths[0], 120 * (strengths[1] - 0.5)
        return _as_bytes(middle + (levels - middle) * _wide(contrast) + _wide(shift))

    def _mix(self, images_nhwc: Tensor, strengths: Tensor) -> Tensor:
        """Mix with one picture, additively or multiplicatively; its share is 10 to 50 %."""
        share = _wide(0.1 + 0.4 * strengths[1])
        levels, others = images_nhwc.float(), self._some_pictures(strengths[0]).float()
        added = (1 - share) * levels + share * others
        multiplied = (levels + 1) ** (1 - share) * (others + 1) ** share - 1
        return _as_bytes(torch.where(_wide(strengths[2]) < 0.5, added, multiplied))

    def _some_pictures(self, strengths: Tensor) -> Tensor:
        return self._pictures[(strengths * (len(self._pictures) - 1)).round().long()]


KINDS: tuple[Callable[[Corruptions, Tensor, Tensor], Tensor], ...] = (
    Corruptions._jpeg,
    Corruptions._blur,
    Corruptions._add_noise,
    Corruptions._mix,
    Corruptions._relight,
)
"""Kinds in the order of their numbers, from 1."""
# JPEG has two turns: most photographs have been through it.
_TURNS = (1, 2, 1, 3, 4, 5)


def jpeg(images_nhwc: Tensor, quality: Tensor) -> Tensor:
    """Compress as JPEG and decompress: uint8 (N, H, W, 1 or 3), at a `quality` of 1 to 100 (N,).

    Colours have half of the resolution (4:2:0), and are interpolated as libjpeg does.
    """
    height, width = images_nhwc.shape[1:3]
    levels = images_nhwc.permute(0, 3, 1, 2).float()
    levels = nn.functional.pad(levels, (0, -width % 16, 0, -height % 16), mode="replicate")
    grey = levels.shape[1] == 1
    if not grey:
        levels = _colours(levels, _TO_YCBCR).round()
    restored = _quantised(levels[:, :1] - 128, _LUMINANCE, quality) + 128
    if not grey:
        colour = nn.functional.avg_pool2d(levels[:, 1:], 2)
        colour = _quantised(colour, _CHROMINANCE, quality)
        colour = nn.functional.interpolate(colour, scale_factor=2.0, mode="bilinear")
        restored = _colours(torch.cat([restored, colour], 1), _TO_RGB)
    return _as_bytes(restored[:, :, :height, :width]).permute(0, 2, 3, 1)


def _colours(levels: Tensor, matrix: Table) -> Tensor:
    return torch.einsum("dc,nchw->ndhw", _on(levels.device, matrix), levels)


def _quantised(levels: Tensor, table: Table, quality: Tensor) -> Tensor:
    """Round the cosine transform of each block of 8x8: (N, C, H, W), in levels around 0."""
    count, channels, height, width = levels.shape
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    steps = ((_on(levels.device, table) * scale[:, None, None] + 50) / 100).floor().clamp(1, 255)
    steps = steps[:, None, None, None]
    transform = _on(levels.device, _COSINES)
    blocks = levels.view(count, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    rounded = (transform @ blocks @ transform.T / steps).round() * steps
    restored = (transform.T @ rounded @ transform).transpose(3, 4)
    return restored.reshape(levels.shape).round()


@cache
def _on(device: torch.device, table: Table) -> Tensor:
    """Make a float32 tensor. It is kept, since a copy to a GPU takes longer than its use."""
    return torch.tensor(table, dtype=torch.float32, device=device)


def blur(images_nhwc: Tensor, along: Tensor, across: Tensor, angle: Tensor) -> Tensor:
    """Blur each image by a normal distribution of its own.

    Args:
        images_nhwc: uint8 (N, H, W, C), larger than half of the kernel of 7x7.
        along: standard deviation in pixels in the direction of `angle`, (N,).
        across: at right angles to it, (N,).
        angle: in radians, (N,).
    """
    count, height, width, channels = images_nhwc.shape
    half = _KERNEL // 2
    y, x = torch.meshgrid(
        *[torch.arange(-half, half + 1.0, device=angle.device)] * 2, indexing="ij"
    )
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    u, v = (x * cos + y * sin) / along[:, None, None], (y * cos - x * sin) / across[:, None, None]
    kernels = (-(u**2 + v**2) / 2).exp()
    kernels = kernels / kernels.sum((1, 2), keepdim=True)
    levels = images_nhwc.permute(0, 3, 1, 2).float().reshape(1, count * channels, height, width)
    levels = nn.functional.pad(levels, (half,) * 4, mode="reflect")
    kernels = kernels.repeat_interleave(channels, 0)[:, None]
    blurred = nn.functional.conv2d(levels, kernels, groups=count * channels)
    return _as_bytes(blurred.view(count, channels, height, width)).permute(0, 2, 3, 1)


def send(numbers: Tensor, device: torch.device) -> Tensor:
    """Copy from the CPU to `device`; to a GPU, asynchronously from page-locked memory."""
    if device.type == "cpu":
        return numbers
    return numbers.pin_memory().to(device, non_blocking=True)


def _wide(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _as_bytes(levels: Tensor) -> Tensor:
    return levels.round().clamp(0, 255).to(torch.uint8)
