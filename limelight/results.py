"""What is asked of a classifier, and what it answers.

What is made for every request is not frozen: making it would take three times as long.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import Method
from limelight.explanations.bounding_box import Box
from limelight.imaging.preprocessing import View

ALL = "all"
"""The target that asks for the map of every class."""


@dataclass(slots=True)
class Score:
    label: str
    index: int
    probability: np.float32


class Winner(NamedTuple):
    """What is counted of a prediction."""

    label: str
    confidence: float
    flags: tuple[str, ...]
    """Names of those that are raised."""


@dataclass(slots=True)
class Prediction:
    """The winner, and the `top_k` classes from the most probable down."""

    model: str
    version: str
    label: str
    index: int
    confidence: np.float32
    abstain: bool | None
    """Whether that is too little to rely on; None where the model has no threshold."""
    ood_score: np.float32 | None
    """How unlike the training images the upload is; None where the model cannot say."""
    out_of_distribution: bool | None
    """Whether it is more unlike them than 95 % of their own kind."""
    scores: tuple[Score, ...]

    @property
    def winner(self) -> Winner:
        """What is counted of it."""
        flags = raised(abstain=self.abstain, out_of_distribution=self.out_of_distribution)
        return Winner(self.label, float(self.confidence), flags)


def raised(*, abstain: bool | None, out_of_distribution: bool | None) -> tuple[str, ...]:
    """Names of the flags that are raised."""
    flags = ("abstain",) if abstain else ()
    return (*flags, "out_of_distribution") if out_of_distribution else flags


@dataclass(slots=True)
class ClassActivationMap:
    """How much each position speaks for `target`: raw values (h, w), box in upload pixels."""

    target: str
    index: int
    values_hw: NDArray[np.float32]
    peak: np.float32
    box: Box
    method: Method = "cam"
    against: str | None = None
    """The class that `target` is contrasted with."""
    evaluations: int = 1
    """How many images the network looked at for it, the upload itself included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayStyle:
    opacity: float
    colormap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What an explanation is asked for. Classes are labels or indices; a label wins."""

    target: str | None = None
    """None: the winner. `ALL`: every class, unless one has that label."""
    method: Method = "cam"
    against: str | None = None
    """For a contrast; None: the most probable class but the target."""
    evaluations: int | None = None
    """At most so many masked images; None: as many as the method wants."""
    zoom: bool = False
    """Whether to look again, at the part of the upload that mattered."""
    style: OverlayStyle | None = None
    """With one, the upload with the map laid over it comes along."""


@dataclass(frozen=True, slots=True)
class CloserLook:
    """What the network says of the part of the upload that mattered most at first."""

    prediction: Prediction
    view: View
    cam: ClassActivationMap


@dataclass(slots=True)
class Explanation:
    """A prediction, the map of one class from the same pass, and a picture if one was asked for."""

    prediction: Prediction
    view: View
    """The part of the upload that the maps cover."""
    cam: ClassActivationMap
    every_cam: tuple[ClassActivationMap, ...] | None
    """Of every class in their order, if they were asked for."""
    zoom: CloserLook | None
    """If it was asked for, and there is more to see than at first."""
    overlay_png: bytes | None
