"""Classification extension: returns the largest values with their labels, instead of all values."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def classified(
    values: NDArray[np.float32], count: int, classes: Sequence[str]
) -> tuple[tuple[int, ...], list[bytes]]:
    """Return the `count` largest values of each image in descending order: shape and elements.

    An element is ``value:index:label``. The label is omitted if there is not one value per class.
    The index counts the values of an image in row-major order. Equal values keep their order.
    """
    rows = values.reshape(len(values), -1)
    count = min(count, rows.shape[1])
    labels = [f":{label}" for label in classes]
    if values.shape[1:] != (len(classes),):
        labels = [""] * rows.shape[1]
    order = np.argsort(-rows, axis=1, kind="stable")[:, :count]
    largest = np.take_along_axis(rows, order, 1)
    elements = [
        f"{value:f}:{index}{labels[index]}".encode()
        for value, index in zip(largest.ravel().tolist(), order.ravel().tolist(), strict=True)
    ]
    return (len(rows), count), elements
