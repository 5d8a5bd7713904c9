"""A loaded data set: its images, and the facts that travel into the manifest."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from limelight.imaging.image_rule import ImageRule
from pipeline.data.splits import Split
from pipeline.data.stored_images import in_batches


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Training and test images, with their classes, image rule, licence and source.

    If there are no `validation` images, a share of the training images is held out for a run.
    """

    name: str
    classes: tuple[str, ...]
    image: ImageRule
    train: Split
    validation: Split | None = None
    test: Split
    licence: str
    source: str
    skipped: tuple[str, ...] = ()
    """Each file that could not be read, and why."""
    unread: Mapping[str, int] = field(default_factory=dict)
    """Number of the files that are not read, by their suffix or the reason."""
    decoded: bool = True
    """False if the images were only listed."""

    @property
    def sha256(self) -> str:
        """Digest of the images and labels of train, test and, if there are some, validation.

        It is empty if the images were not decoded.
        """
        if not self.decoded:
            return ""
        digest = hashlib.sha256()
        for split in (self.train, self.test, *([self.validation] if self.validation else [])):
            for batch in in_batches(split.images):
                digest.update(np.ascontiguousarray(batch).data)
            digest.update(split.labels.astype("<i8").tobytes())
        return digest.hexdigest()
