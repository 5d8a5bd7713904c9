"""What the service says of a scene at first and on a closer look, beside what is in it."""

import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from limelight.client.client import AsyncClient, Explanation
from limelight.explanations.bounding_box import Box
from limelight.imaging.preprocessing import picture_of
from pipeline.data.synthetic_scenes import Scene


@dataclass(frozen=True, slots=True)
class Look:
    """One answer, judged."""

    right: bool
    confidence: float
    pointed: bool
    """Whether the peak of the map lies in the object's box: the pointing game (Zhang et al., 2016).
    """
    chance: float
    """The share of what was seen that lies in the object's box: what any place has of pointing."""
    overlap: float
    """Of the map's box with the object's: intersection over union."""


@dataclass(frozen=True, slots=True)
class Looks:
    """Of one scene."""

    first: Look
    closer: Look
    """The first one again where the service saw nothing to gain from another."""
    anew: bool
    """Whether there was another."""
    alone: bool
    """Whether the object is recognised when somebody cuts it out by its box."""

    @property
    def surer(self) -> Look:
        """The more confident one."""
        return max(self.first, self.closer, key=lambda look: look.confidence)


async def look_at(scene: Scene, label: int, client: AsyncClient, *, model: str) -> Looks:
    """Ask what a scene shows, with `zoom`, and what the object alone does."""
    answer = await client.explain(encoded(scene.image_hwc), model=model, zoom=True)
    box = scene.box
    cut = scene.image_hwc[int(box.top) : int(box.bottom), int(box.left) : int(box.right)]
    alone = await client.predict(encoded(cut), model=model)
    first = judge(answer, label, box)
    closer = first if answer.zoom is None else judge(answer.zoom, label, box)
    return Looks(first, closer, anew=answer.zoom is not None, alone=alone.index == label)


def judge(answer: Explanation, label: int, box: Box) -> Look:
    """Hold an answer against the label and the box of the object."""
    seen = Box(*answer.view)
    x, y = peak(answer)
    return Look(
        right=answer.index == label,
        confidence=answer.confidence,
        pointed=box.left <= x <= box.right and box.top <= y <= box.bottom,
        chance=_common(seen, box) / _area(seen),
        overlap=overlap(Box(*answer.cam.box), box),
    )


def peak(answer: Explanation) -> tuple[float, float]:
    """Where the centre of the map's highest cell lies, in pixels of the upload."""
    values = np.asarray(answer.cam.values)
    rows, columns = values.shape
    row, column = divmod(int(values.argmax()), columns)
    seen = Box(*answer.view)
    across, down = (column + 0.5) / columns, (row + 0.5) / rows
    x = seen.left + across * (seen.right - seen.left)
    return x, seen.top + down * (seen.bottom - seen.top)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union: 0 to 1."""
    common = _common(one, other)
    return common / (_area(one) + _area(other) - common)


def encoded(image_hwc: NDArray[np.uint8]) -> bytes:
    """As PNG."""
    stream = io.BytesIO()
    picture_of(image_hwc).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def rights(looks: Iterable[Look]) -> list[bool]:
    """Which of them are right."""
    return [look.right for look in looks]


def _common(one: Box, other: Box) -> float:
    wide = min(one.right, other.right) - max(one.left, other.left)
    high = min(one.bottom, other.bottom) - max(one.top, other.top)
    return max(0.0, wide) * max(0.0, high)


def _area(box: Box) -> float:
    return (box.right - box.left) * (box.bottom - box.top)
