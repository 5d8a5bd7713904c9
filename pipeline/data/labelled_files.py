"""Image files by class, before any is read: what a folder and a CSV file both come to."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"}
# Photographs of their owner's are trusted with more than the service allows an upload.
MAX_PIXELS = 200_000_000

FilesByClass = dict[str, list[Path]]


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """The files of each class; `test` is None where the test images are yet to be set aside."""

    train: FilesByClass
    test: FilesByClass | None
    described: str

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, sorted."""
        return tuple(sorted(self.train))


def checked(files: LabelledFiles, source: Path, needed: str) -> LabelledFiles:
    """Give `files` back if they can be trained and tested on; `needed` is how to have classes.

    Raises:
        DataError: there are fewer than two classes, or others for the test than for training.

    """
    if len(files.train) < 2:
        raise DataError(
            f"{source}: needs {needed} for each of at least two classes, found {len(files.train)}"
        )
    if files.test is not None and set(files.test) != set(files.train):
        raise DataError(
            f"{source}: train has the classes {', '.join(files.classes)}, and test "
            f"{', '.join(sorted(files.test)) or 'none'}: both need the same"
        )
    return files


def is_image(path: Path) -> bool:
    """Whether `path` is a file with the suffix of an image that can be read."""
    return path.suffix.lower() in SUFFIXES and path.is_file()
