"""Side of the network's input that suits a user's images."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from limelight.errors import LimelightError
from limelight.imaging.headers.inspection import inspect
from pipeline.data.labelled_files import MAX_PIXELS

SMALLEST = 32
"""Below it, the feature maps of most networks have too few positions."""
_STEP = 8
# Enough for a median.
_INSPECTED = 100


def suitable_side(paths: Sequence[Path], largest: int) -> int:
    """Return the median of the images' shorter sides, from `SMALLEST` to `largest` pixels.

    It is a multiple of 8. Of many files, only some are inspected, and of these only the headers.
    """
    chosen = paths[:: max(1, len(paths) // _INSPECTED)]
    sides = [side for path in chosen if (side := _shorter_side(path)) is not None]
    if not sides:
        return largest
    return max(SMALLEST, min(int(median(sides)) // _STEP * _STEP, largest))


def _shorter_side(path: Path) -> int | None:
    try:
        header = inspect(path.read_bytes(), max_pixels=MAX_PIXELS, own_file=True)
    except (LimelightError, OSError):
        return None
    return min(header.width, header.height)
