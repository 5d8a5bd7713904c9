"""What an explanation method is given."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Evaluate = Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]]
"""Masked images, uint8 (N, H, W, C), to the logits of each: (N, K)."""


@dataclass(slots=True)
class MapRequest:
    """One image, what the network gave for it, and the class whose map is wanted."""

    pixels_hwc: NDArray[np.uint8]
    """The image as the network takes it."""
    outputs: Mapping[str, NDArray[np.float32]]
    """What the network gave for it, without the batch dimension."""
    index: int
    """The class."""
    against: int | None
    """The class to contrast with, for a method that contrasts."""
    most_evaluations: int
    """At most so many masked images, for a method that masks."""
    evaluate: Evaluate
    """Runs masked images."""
    evaluations: int = 1
    """Images that the network has evaluated for the map, the upload included."""
