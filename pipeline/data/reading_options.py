"""How a user's images are read."""

from collections.abc import Callable
from dataclasses import dataclass

ImageProgress = Callable[[int, int], None]
"""Called with the number of images that were read, and of all images to read."""


def ignore(done: int, total: int) -> None:
    """Ignore the progress."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """Processes that decode images, and who is told of their progress."""

    workers: int | None = None
    """Number of processes; None is the number of processors."""
    progress: ImageProgress = ignore
    decode: bool = True
    """False only lists the files, for a dry run: the images can be counted, and not be read."""
