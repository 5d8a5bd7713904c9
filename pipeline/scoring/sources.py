"""Sources of images to score: all images below a folder, or all rows of Parquet files."""

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from pipeline.data.own_images.file_walk import walk_files


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive images: columns that identify them (N rows), and their files or bytes."""

    ids: pa.Table
    bodies: list[Path | bytes | None]
    """None if a row has no image."""


class Source(Protocol):
    """Images in an order that is fixed for a given `listing`."""

    @property
    def images(self) -> int: ...

    @property
    def listing(self) -> str:
        """SHA-256 of every file's name and size."""
        ...

    def read(self, start: int, stop: int) -> Chunk:
        """Read the images from `start` to before `stop`."""
        ...


@dataclass(frozen=True, slots=True)
class FolderSource:
    """All image files below `root`, in the order of their paths."""

    root: Path
    names: tuple[str, ...]
    listing: str

    @property
    def images(self) -> int:
        return len(self.names)

    def read(self, start: int, stop: int) -> Chunk:
        """Return the files from `start` to before `stop`; none is opened yet."""
        names = self.names[start:stop]
        paths = pa.array([_printable(name) for name in names], pa.string())
        return Chunk(pa.table({"path": paths}), [self.root / name for name in names])


def list_images(root: Path, names: Iterable[str]) -> FolderSource:
    """Return the images of these names below `root`."""
    names = tuple(sorted(names))
    return FolderSource(root, names, digest_files(root, names))


def find_files(root: Path, suffixes: Collection[str]) -> Iterator[str]:
    """Yield the path below `root` of each file with one of `suffixes`, in any case and order.

    Hidden files and folders are skipped, and links to folders are followed.

    Raises:
        DataError: a folder cannot be listed.

    """
    for path in walk_files(root):
        if path.suffix.lower() in suffixes:
            yield path.relative_to(root).as_posix()


def digest_files(root: Path, names: Iterable[str]) -> str:
    """Compute the SHA-256 of the names below `root` and the file sizes, in the given order."""
    digest = hashlib.sha256()
    for name in names:
        try:
            size = (root / name).stat().st_size
        except OSError:  # a dangling link; reading it reports the error
            size = -1
        digest.update(os.fsencode(f"{name}\0{size}\n"))
    return digest.hexdigest()


def _printable(name: str) -> str:
    """Write bytes of a file name that are not UTF-8 as escapes, since columns are UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
