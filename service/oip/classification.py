"""The classification extension: the largest values by name, in place of all of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def classified(
    values: NDArray[np.float32], count: int, classes: Sequence[str]
) -> tuple[tuple[int, ...], list[bytes]]:
    """The `count` largest of each image's values, largest first: their shape, and the elements.

    An element is ``value:index:label``, without the label where the values are not one a class;
    the index counts an image's values in row-major order. Of a tie the first comes first.
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
