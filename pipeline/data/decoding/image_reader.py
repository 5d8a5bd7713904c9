"""Labelled image files as splits: each file is decoded once, and then read from the image cache."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from limelight.imaging.image_rule import ImageRule
from pipeline.data.decoding.duplicates import Duplicates
from pipeline.data.decoding.image_cache import Record, opened_cache
from pipeline.data.decoding.worker_processes import decode_missing
from pipeline.data.labelled_files import FilesByClass, LabelledFiles
from pipeline.data.reading_options import Reading
from pipeline.data.splits import Split
from pipeline.data.stored_images import ImageFile, StoredImages
from pipeline.errors import DataError

MOST_NAMED = 10

logger = logging.getLogger(__name__)


class ImageReader:
    """Reads the files of a source by one image rule, and records those that it cannot read.

    Args:
        source: the folder or CSV file that names the files.
        files: all files.
        rule: converts an image to the network's input.
        reading: the processes that decode.

    Raises:
        DataError: the disk has no room for the images.
        UnwritableError: the image cache cannot be written.

    """

    def __init__(
        self, source: Path, files: LabelledFiles, rule: ImageRule, reading: Reading
    ) -> None:
        self._given = (source if source.is_dir() else source.parent).absolute()
        self._home = self._given.resolve()
        self._shape = rule.height, rule.width, rule.channels
        self._duplicates = Duplicates()
        self.skipped: list[str] = []
        """Each skipped file, with the reason."""
        self._pixels: ImageFile | None = None
        if not reading.decode:
            self._records = {str(path): _unread(path) for path in self._resolved(files.paths)}
            return
        with opened_cache(source, rule) as cache:
            decode_missing(cache, self._resolved(files.paths), rule, reading)
            self._records, self._pixels = cache.records, ImageFile(cache.pixels)

    def read(self, files: FilesByClass, *, part: str) -> Split:
        """Return the images of a part, class by class in the order of their names.

        Raises:
            DataError: a class has no readable image.

        """
        read: list[Record] = []
        labels: list[int] = []
        for label, name in enumerate(sorted(files)):
            readable = list(self._readable(files[name]))
            if not readable:
                first = self.skipped[-len(files[name])]
                raise DataError(
                    f"class {name!r}: no readable image (first {first}); add some, or remove the "
                    "class"
                )
            for record in readable if self._pixels else ():
                within = self._within(Path(record.path))
                self._duplicates.add(record.sha256, within, label=name, part=part)
            read += readable
            labels += [label] * len(readable)
        rows = np.array([record.row for record in read], np.int64)
        return Split(
            StoredImages(self._pixels, self._shape, rows),
            np.array(labels, dtype=np.int64),
            tuple(self._within(Path(record.path)) for record in read),
        )

    def report(self) -> None:
        """Log how many files were skipped besides those that were named, and which are copies."""
        unnamed = len(self.skipped) - MOST_NAMED
        if unnamed > 0:
            logger.warning(
                "and %s more (%s files in all)", f"{unnamed:,}", f"{len(self.skipped):,}"
            )
        self._duplicates.report()

    def _readable(self, paths: Sequence[Path]) -> Iterable[Record]:
        for path, resolved in zip(paths, self._resolved(paths), strict=True):
            record = self._records[str(resolved)]
            if record.problem is None:
                yield record
            else:
                self._skip(f"{path}: {record.problem}")

    def _skip(self, problem: str) -> None:
        self.skipped.append(problem)
        if len(self.skipped) <= MOST_NAMED:
            logger.warning("skipped %s", problem)

    def _resolved(self, paths: Sequence[Path]) -> list[Path]:
        """Name files as the cache does: alike from every working folder."""
        return [
            self._home / path.relative_to(self._given) if path.is_relative_to(self._given) else path
            for path in map(Path.absolute, paths)
        ]

    def _within(self, path: Path) -> str:
        """Name a file within the source."""
        return str(path.relative_to(self._home) if path.is_relative_to(self._home) else path)


def _unread(path: Path) -> Record:
    return Record(str(path), size=0, mtime_ns=0, row=0, sha256="", problem=None)
