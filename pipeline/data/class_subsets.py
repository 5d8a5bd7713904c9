"""Data sets made of another: some of its classes, larger where that is wanted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limelight.artifact.manifest import ImageRule
from limelight.imaging.preprocessing import prepare
from pipeline.data.splits import Split


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """Some classes of a parent; what is for training or test there stays so here."""

    parent: str
    classes: tuple[str, ...]
    resized: bool = False
    """Whether the images are brought to the image size that is asked for."""


DERIVED: dict[str, Derived] = {
    "mnist37": Derived(parent="mnist", classes=("3", "7")),
    "cifar8": Derived(
        parent="cifar10",
        classes=("airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck"),
    ),
    "cats-and-dogs": Derived(parent="cifar10", classes=("cat", "dog"), resized=True),
}


def share_images(first: str, second: str) -> bool:
    """Whether one of two data sets, by their names, is derived and has images of the other."""
    if first not in DERIVED and second not in DERIVED:
        return False

    def part(name: str) -> tuple[str, tuple[str, ...] | None]:
        derived = DERIVED.get(name)
        return (name, None) if derived is None else (derived.parent, derived.classes)

    (parent, classes), (other_parent, others) = part(first), part(second)
    if parent != other_parent:
        return False
    return classes is None or others is None or not set(classes).isdisjoint(others)


def take_classes(split: Split, parent: Sequence[str], classes: Sequence[str]) -> Split:
    """The images of `classes`, in their order, their labels counted anew from 0.

    `parent` are the names of the labels of `split`.
    """
    labels = np.full(len(parent), -1, np.int64)
    for label, name in enumerate(classes):
        labels[parent.index(name)] = label
    relabelled = labels[split.labels]
    kept = relabelled >= 0
    return Split(split.images[kept], relabelled[kept])


def resized(images_nhwc: NDArray[np.uint8], rule: ImageRule) -> NDArray[np.uint8]:
    """Bring colour images, uint8 (N, H, W, 3), to the rule's size as the service would uploads."""
    return np.stack([prepare(Image.fromarray(image), rule)[0] for image in images_nhwc])
