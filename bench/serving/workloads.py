"""Workloads: images from a seeded generator, as large on the wire as real ones are."""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from bench.common import ROOT
from bench.peers.network import Network
from service.artifact import newest_version

IMAGES = 64
_SEED = 0
# The white noise is as strong, and the stroke as wide, as makes the PNGs as long as those of the
# real test images, to a tenth.
_NOISE = {32: 7.0, 512: 4.0}
_QUALITY = 90


@dataclass(frozen=True, slots=True)
class Workload:
    """`IMAGES` different images of one kind for one model; or as many batches of their pixels."""

    name: str
    model: str
    size: int
    format: Literal["PNG", "JPEG", "pixels"]
    batch: int = 1
    """Images in one request."""

    @property
    def title(self) -> str:
        many = f"{self.batch} images of " if self.batch > 1 else ""
        return f"{self.model}, {many}{self.size}×{self.size} {self.format}"

    @property
    def media_type(self) -> str:
        if self.format == "pixels":
            return "application/octet-stream"
        return f"image/{self.format.lower()}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, H, W, C) of one request's pixels."""
        return self.batch, self.size, self.size, 1 if self.model == "digits" else 3

    def images(self, count: int = IMAGES) -> list[Image.Image]:
        """The first `count`; the same ones at every call."""
        rng = np.random.default_rng([_SEED, self.size])
        draw = _digit if self.model == "digits" else _photograph
        return [draw(rng, self.size) for _ in range(count)]

    def bodies(self, count: int = IMAGES) -> list[bytes]:
        """The bodies of the first `count` requests; a batch begins with that request's image."""
        images = self.images(max(count, self.batch))
        if self.format != "pixels":
            return [self._encode(image) for image in images[:count]]
        pixels = np.stack([np.asarray(image) for image in images])
        return [np.roll(pixels, -at, axis=0)[: self.batch].tobytes() for at in range(count)]

    def _encode(self, image: Image.Image) -> bytes:
        buffer = BytesIO()
        image.save(buffer, self.format, **({"quality": _QUALITY} if self.format == "JPEG" else {}))
        return buffer.getvalue()


WORKLOADS: dict[str, Workload] = {
    workload.name: workload
    for workload in (
        Workload("cifar10-png", "cifar10", 32, "PNG"),
        Workload("cifar10-jpeg", "cifar10", 512, "JPEG"),
        Workload("digits-png", "digits", 28, "PNG"),
        Workload("cifar10-batch", "cifar10", 32, "pixels", batch=32),
        Workload("digits-batch", "digits", 28, "pixels", batch=32),
    )
}


@cache
def bodies(workload: Workload) -> list[bytes]:
    """All bodies of a workload, made once."""
    return workload.bodies()


@cache
def surest(workload: Workload) -> tuple[int, str]:
    """The image that the network is surest of, and its label, which a server has to answer.

    Servers resize differently, which must not turn a close call into a wrong answer.
    """
    network = Network(newest_version(ROOT / "zoo" / workload.model))
    answers = network.answers(workload.images())
    best = max(range(len(answers)), key=lambda at: float(answers[at]["confidence"]))
    return best, str(answers[best]["label"])


def _photograph(rng: Generator, size: int) -> Image.Image:
    """Coloured noise of every scale, the coarser the stronger, and a little white noise."""
    pixels = np.full((size, size, 3), 128.0)
    cells, strength = 2, 45.0
    while cells <= size // 2:
        pixels += strength * _enlarged(rng.normal(size=(cells, cells, 3)), size)
        cells, strength = cells * 2, strength * 0.6
    pixels += rng.normal(scale=_NOISE[size], size=pixels.shape)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _enlarged(grid: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    channels = [
        Image.fromarray(grid[..., channel].astype(np.float32)).resize(
            (size, size), Image.Resampling.BICUBIC
        )
        for channel in range(grid.shape[2])
    ]
    return np.stack([np.asarray(channel, np.float64) for channel in channels], axis=2)


def _digit(rng: Generator, size: int) -> Image.Image:
    """A smooth white stroke on black, drawn four times as large and averaged down."""
    finer = 4
    image = Image.new("L", (size * finer, size * finer))
    corners = rng.uniform(0.2, 0.8, size=(5, 2)) * size * finer
    steps = np.linspace(0, len(corners) - 1, 40)
    points = np.stack(
        [np.interp(steps, np.arange(len(corners)), corners[:, axis]) for axis in (0, 1)], axis=1
    )
    ImageDraw.Draw(image).line(
        [(float(x), float(y)) for x, y in points], fill=255, width=2 * finer, joint="curve"
    )
    return image.filter(ImageFilter.GaussianBlur(finer / 2)).reduce(finer)
