"""Make a data set of some classes of another, with larger images if required."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.artifact.manifest import ImageRule
from limelight.imaging.preprocessing import prepare
from pipeline.data.splits import Split
from pipeline.data.stored_images import Images


def take_classes(split: Split, parent: Sequence[str], classes: Sequence[str]) -> Split:
    """Take the images of `classes`, in their order, with new labels from 0.

    `parent` are the names of the labels of `split`.
    """
    labels = np.full(len(parent), -1, np.int64)
    for label, name in enumerate(classes):
        labels[parent.index(name)] = label
    relabelled = labels[split.labels]
    kept = relabelled >= 0
    return Split(split.images[np.flatnonzero(kept)], relabelled[kept])


def resized(images: Images, rule: ImageRule) -> NDArray[np.uint8]:
    """Resize colour images, uint8 (N, H, W, 3), by the rule, as the service resizes uploads."""
    return np.stack([prepare(Image.fromarray(image), rule)[0] for image in images[:]])
