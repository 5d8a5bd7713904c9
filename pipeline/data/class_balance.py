"""Class counts, a report on uneven classes, and class weights."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

# Below this ratio of the largest class to the smallest, class weights have hardly any effect.
UNEVEN = 1.5


def class_counts(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Count the images of each class by labels (N,), in the order of `classes`."""
    counts = np.bincount(labels, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def imbalance_report(labels: NDArray[np.int64], classes: Sequence[str]) -> str | None:
    """Describe uneven classes; None if the largest is less than 1.5 times the smallest."""
    counts = class_counts(labels, classes)
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[largest] < UNEVEN * counts[smallest]:
        return None
    ratio = f" ({counts[largest] / counts[smallest]:.1f}x)" if counts[smallest] else ""
    return (
        f"the classes are uneven: '{largest}' has {counts[largest]:,} images and '{smallest}' "
        f"{counts[smallest]:,}{ratio}. Add images of the small classes, or train with "
        "--class-weights, which weights each class by the inverse of its frequency."
    )


def class_weights(labels: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.float32]:
    """Compute class weights (K,), inverse to the frequencies, with mean 1 over images.

    Raises:
        DataError: a class has no image.

    """
    counts = class_counts(labels, classes)
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise DataError(
            f"no image of {', '.join(map(repr, empty))}, so it has no weight: add some, or "
            "remove the class"
        )
    images = np.array(list(counts.values()), np.float64)
    return (len(labels) / (len(classes) * images)).astype(np.float32)
