"""Options of an explanation and of its overlay."""

from dataclasses import dataclass

from limelight.errors import InvalidParameter
from limelight.explanations.overlay import COLORMAPS

ALL = "all"
"""Target that requests the map of every class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlayStyle:
    """Style of an overlay: `opacity` from 0 to 1, and the name of a colormap.

    Raises:
        InvalidParameter: the opacity or the colormap is out of range.
    """

    opacity: float = 0.5
    colormap: str = "turbo"

    def __post_init__(self) -> None:
        """Check both fields."""
        if not 0 <= self.opacity <= 1:  # also rejects NaN
            raise InvalidParameter(f"opacity is {self.opacity:g}, and must be a number from 0 to 1")
        if self.colormap not in COLORMAPS:
            raise InvalidParameter(
                f"colormap is {self.colormap[:100]!r}, and must be one of {', '.join(COLORMAPS)}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainOptions:
    """Options of an explanation.

    A class is given by its label or its index. In a text, a label takes precedence.
    """

    target: str | int | None = None
    """Class of the map. None: the predicted class. `ALL`: every class, unless that is a label."""
    method: str = "cam"
    """Name of a method in `limelight.explanations.methods.METHODS`."""
    against: str | int | None = None
    """Class to contrast with. None: the most probable class other than the target."""
    evaluations: int | None = None
    """Maximum number of masked images. None: the method's default."""
    zoom: bool = False
    """True to evaluate the crop around the map's box as well, at its full resolution."""
