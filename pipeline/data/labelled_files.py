"""Image files by class and part, as listed from a folder or a CSV file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from limelight.imaging.formats import suffixes
from pipeline.errors import DataError

# Larger than the service allows, since these files are the user's own.
MAX_PIXELS = 200_000_000

FilesByClass = dict[str, list[Path]]

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_PURPOSES = {TRAIN: "train on", VALIDATION: "validate on", TEST: "test"}
_PARTS = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VALIDATION,
    "valid": VALIDATION,
    "validation": VALIDATION,
    "dev": VALIDATION,
    "test": TEST,
    "testing": TEST,
}


def part_called(name: str) -> str | None:
    """Return the part of a data set that `name` means, in any case; None if it means none.

    These are the names that Kaggle, Roboflow, ImageNet and ultralytics use.
    """
    return _PARTS.get(name.casefold())


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelledFiles:
    """Files of each class; what is None for `validation` or `test` must be held out."""

    train: FilesByClass
    validation: FilesByClass | None
    test: FilesByClass | None
    described: str
    unread: Mapping[str, int] = field(default_factory=dict)
    """Number of the files that are not read, by their suffix or the reason."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return tuple(sorted(self.train))

    @property
    def paths(self) -> list[Path]:
        """All files, each once."""
        parts = (self.train, self.validation or {}, self.test or {})
        files = (path for part in parts for paths in part.values() for path in paths)
        return list(dict.fromkeys(files))


def checked(files: LabelledFiles, source: Path, needed: str) -> LabelledFiles:
    """Check `files` and return them; an error says that each class needs `needed`.

    Raises:
        DataError: there are fewer than two classes, the parts differ in them, a class has no image,
            or a name is not UTF-8, so that neither a run nor an artefact could contain it.

    """
    for name in ("", *files.classes):
        path = str(source.resolve() / name)
        if (shown := os.fsencode(path).decode(errors="backslashreplace")) != path:
            raise DataError(f"{shown}: this name is not UTF-8; rename it")
    if len(files.train) < 2:
        raise DataError(
            f"{source}: needs {needed} for each of at least two classes, found {len(files.train)}"
        )
    for part, by_class in (
        (TRAIN, files.train),
        (VALIDATION, files.validation),
        (TEST, files.test),
    ):
        if by_class is None:
            continue
        if set(by_class) != set(files.train):
            raise DataError(
                f"{source}: train has the classes {', '.join(files.classes)}, and {part} "
                f"{', '.join(sorted(by_class)) or 'none'}: both need the same"
            )
        empty = [name for name, paths in by_class.items() if not paths]
        if empty:
            raise DataError(
                f"{source}: no image of {', '.join(map(repr, empty))} to {_PURPOSES[part]}: add "
                "some, or remove the class"
            )
    return files


def is_image(path: Path) -> bool:
    """Tell whether `path` is a file, or a broken link, with the suffix of an image format."""
    return path.suffix.lower() in suffixes() and (path.is_file() or not path.exists())
