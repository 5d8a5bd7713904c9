"""Input of an explanation method."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Evaluate = Callable[[NDArray[np.uint8]], Awaitable[NDArray[np.float32]]]
"""Function from masked images, uint8 (N, H, W, C), to their logits, (N, K)."""

Compute = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Function that runs work which takes milliseconds, and returns its result. A service runs it in a
thread, so that other requests go on."""


async def compute_here(work: Callable[[], Any]) -> Any:
    """Run work at once, in the caller's thread."""
    return work()


@dataclass(slots=True)
class MapRequest:
    """Image, outputs of the network and class of one map."""

    pixels_hwc: NDArray[np.uint8]
    """Input image of the network."""
    outputs: Mapping[str, NDArray[np.float32]]
    """Outputs of the network by name, without the batch dimension."""
    index: int
    """Index of the class."""
    against: int | None
    """Index of the class to contrast with, for a method that contrasts."""
    max_evaluations: int
    """Maximum number of masked images, for a method that masks."""
    evaluate: Evaluate
    """Function that evaluates masked images."""
    compute: Compute = compute_here
    """Function that runs the work of making masked images."""
    evaluations: int = 1
    """Number of images that the network evaluated for the map, including the upload."""
