"""Read labelled image files into arrays, with the code that reads uploads to the service."""

import logging

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.manifest import ImageRule
from limelight.errors import LimelightError
from limelight.imaging.preprocessing import read_upload
from pipeline.data.duplicates import Duplicates
from pipeline.data.labelled_files import MAX_PIXELS, FilesByClass
from pipeline.data.splits import Split
from pipeline.errors import DataError

MOST_NAMED = 10

logger = logging.getLogger(__name__)


class ImageReader:
    """Reads image files by one image rule, and records those that it cannot read."""

    def __init__(self, rule: ImageRule) -> None:
        self._rule = rule
        self._duplicates = Duplicates()
        self.skipped: list[str] = []
        """Each skipped file, with the reason."""

    def read(self, files: FilesByClass, *, part: str) -> Split:
        """Read every file of a part, class by class in the order of their names.

        Raises:
            DataError: a class has no readable image.

        """
        images: list[NDArray[np.uint8]] = []
        labels: list[int] = []
        for label, name in enumerate(sorted(files)):
            before = len(images)
            for path in files[name]:
                try:
                    content = path.read_bytes()
                    upload = read_upload(content, self._rule, max_pixels=MAX_PIXELS)
                except LimelightError as error:
                    self._skip(f"{path}: {error.detail}")
                except OSError as error:
                    self._skip(f"{path}: {error.strerror}")
                else:
                    images.append(upload.pixels_hwc)
                    self._duplicates.add(content, path, label=name, part=part)
            if len(images) == before:
                why = f" (first {self.skipped[-len(files[name])]})" if files[name] else ""
                raise DataError(
                    f"class {name!r}: no readable image{why}; add some, or remove the class"
                )
            labels += [label] * (len(images) - before)
        return Split(np.stack(images), np.array(labels, dtype=np.int64))

    def report(self) -> None:
        """Log how many files were skipped besides those that were named, and which are copies."""
        unnamed = len(self.skipped) - MOST_NAMED
        if unnamed > 0:
            logger.warning(
                "and %s more (%s files in all)", f"{unnamed:,}", f"{len(self.skipped):,}"
            )
        self._duplicates.report()

    def _skip(self, problem: str) -> None:
        self.skipped.append(problem)
        if len(self.skipped) <= MOST_NAMED:
            logger.warning("skipped %s", problem)
