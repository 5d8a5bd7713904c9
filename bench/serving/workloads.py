"""Workloads: parts of the example pictures, drawn by a seed."""

from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from bench.common import ROOT
from bench.peers.network import Network
from limelight.artifact.store import newest_version

IMAGES = 64
_SEED = 0
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
        """Random parts of an example picture, the same ones at every call."""
        rng = np.random.default_rng([_SEED, self.size])
        if self.model == "digits":
            picture = ImageOps.invert(Image.open(ROOT / "examples" / "seven.png").convert("L"))
        else:
            picture = Image.open(ROOT / "examples" / "cat.png").convert("RGB")
        side = min(picture.size)
        picture, images = ImageOps.fit(picture, (side, side)), []
        for _ in range(count):
            edge = rng.uniform(0.9, 1.0) * side
            left, top = rng.uniform(0, side - edge, size=2)
            box = (left, top, left + edge, top + edge)
            images.append(picture.resize((self.size, self.size), box=box))
        return images

    def bodies(self, count: int = IMAGES) -> list[bytes]:
        """The bodies of the first `count` requests; a batch begins with that request's image."""
        images = self.images(max(count, self.batch))
        if self.format == "pixels":
            pixels = np.stack([np.asarray(image) for image in images])
            return [np.roll(pixels, -at, axis=0)[: self.batch].tobytes() for at in range(count)]
        streams = [BytesIO() for _ in range(count)]
        for image, stream in zip(images, streams, strict=False):
            image.save(stream, self.format, quality=_QUALITY)  # PNG has none
        return [stream.getvalue() for stream in streams]


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
