"""A loaded data set: its images, and the facts that travel into the manifest."""

import hashlib
from dataclasses import dataclass

import numpy as np

from limelight.artifact.manifest import ImageRule
from pipeline.data.splits import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Training and test images, with their classes, image rule, licence and source."""

    name: str
    classes: tuple[str, ...]
    image: ImageRule
    train: Split
    test: Split
    licence: str
    source: str
    skipped: tuple[str, ...] = ()
    """Each file that could not be read, and why."""

    @property
    def sha256(self) -> str:
        """Digest of the four arrays, in the order train images, labels, test images, labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.images).tobytes())
            digest.update(split.labels.astype("<i8").tobytes())
        return digest.hexdigest()
