"""How evenly the classes of a data set are filled, and what to do where they are not."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError

# Below this ratio of the largest class to the smallest, weights change next to nothing.
UNEVEN = 1.5


def class_counts(labels: NDArray[np.int64], classes: Sequence[str]) -> dict[str, int]:
    """Images of each class, in the order of `classes`, from their labels (N,)."""
    counts = np.bincount(labels, minlength=len(classes))
    return dict(zip(classes, counts.tolist(), strict=True))


def imbalance_report(labels: NDArray[np.int64], classes: Sequence[str]) -> str | None:
    """Say which classes have how many images; None if the largest is < 1.5x the smallest."""
    counts = class_counts(labels, classes)
    smallest, largest = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[largest] < UNEVEN * counts[smallest]:
        return None
    ratio = f" ({counts[largest] / counts[smallest]:.1f}x)" if counts[smallest] else ""
    return (
        f"the classes are uneven: '{largest}' has {counts[largest]:,} images and '{smallest}' "
        f"{counts[smallest]:,}{ratio}. Add images of the small classes, or train with "
        "--class-weights, which weighs each image by how rare its class is."
    )


def class_weights(labels: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.float32]:
    """Weights (K,) in inverse proportion to the classes' frequencies, with mean 1 over images.

    Raises:
        DataError: if a class has no image.

    """
    counts = class_counts(labels, classes)
    empty = [name for name, count in counts.items() if count == 0]
    if empty:
        raise DataError(
            f"no image of {', '.join(map(repr, empty))} to be weighed: add some, or take the "
            "class out"
        )
    images = np.array(list(counts.values()), np.float64)
    return (len(labels) / (len(classes) * images)).astype(np.float32)
