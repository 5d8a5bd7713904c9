"""What an explanation is asked for."""

from dataclasses import dataclass

from limelight.errors import InvalidParameter
from limelight.explanations.overlay import COLORMAPS

ALL = "all"
"""The target that asks for the map of every class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayStyle:
    """How a map is laid over an image: `opacity` of 0 to 1, and a colormap's name.

    Raises:
        InvalidParameter: one of them is out of range.
    """

    opacity: float = 0.5
    colormap: str = "turbo"

    def __post_init__(self) -> None:
        """Check both."""
        if not 0 <= self.opacity <= 1:  # which NaN fails too
            raise InvalidParameter(f"opacity is {self.opacity:g}, and must be a number from 0 to 1")
        if self.colormap not in COLORMAPS:
            raise InvalidParameter(
                f"colormap is {self.colormap[:100]!r}, and must be one of {', '.join(COLORMAPS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """What an explanation is asked for. Classes are labels or indices; a label wins."""

    target: str | None = None
    """None: the winner. `ALL`: every class, unless one has that label."""
    method: str = "cam"
    """One of `limelight.explanations.methods.METHODS`."""
    against: str | None = None
    """For a contrast; None: the most probable class but the target."""
    evaluations: int | None = None
    """At most so many masked images; None: as many as the method wants."""
    zoom: bool = False
    """Whether to evaluate again the part of the upload that mattered, at its full resolution."""
