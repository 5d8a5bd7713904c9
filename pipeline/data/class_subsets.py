"""Make a data set of some classes of another."""

from collections.abc import Sequence

import numpy as np

from pipeline.data.splits import Split


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
