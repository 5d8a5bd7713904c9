"""Image files by class, as listed from a folder or a CSV file."""

from dataclasses import dataclass
from pathlib import Path

from limelight.imaging.formats import suffixes
from pipeline.errors import DataError

# Larger than the service allows, since these files are the user's own.
MAX_PIXELS = 200_000_000

FilesByClass = dict[str, list[Path]]


@dataclass(frozen=True, slots=True)
class LabelledFiles:
    """Files of each class; `test` is None if test images must be held out."""

    train: FilesByClass
    test: FilesByClass | None
    described: str

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted(self.train))


def checked(files: LabelledFiles, source: Path, needed: str) -> LabelledFiles:
    """Check `files` and return them; an error says that each class needs `needed`.

    Raises:
        DataError: there are fewer than two classes, or training and test differ in them.

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
    """Tell whether `path` is a file with the suffix of a supported image format."""
    return path.suffix.lower() in suffixes() and path.is_file()
