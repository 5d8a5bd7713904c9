"""Labelled images, and stratified splits of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.stored_images import Images, StoredImages
from pipeline.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Images, uint8 (N, H, W, C), and their labels, int64 (N,)."""

    images: Images
    labels: NDArray[np.int64]
    files: tuple[str, ...] = ()
    """The file of each image, within the user's folder; empty if they come from no files."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """Select the images at `indices`, (M,), in that order."""
        images = self.images
        taken = images.take(indices) if isinstance(images, StoredImages) else images[indices]
        files = tuple(self.files[index] for index in indices.tolist()) if self.files else ()
        return Split(taken, self.labels[indices], files)


def split_validation(
    train: Split, share: float, seed: int, classes: Sequence[str] = ()
) -> tuple[Split, Split]:
    """Hold out a stratified `share` of the training images: (to fit, to validate on).

    `classes` are the names of the labels, for error messages.

    Raises:
        DataError: a class has too few images to be split; the message names it.

    """
    return hold_out("validation images", train, share, seed, classes)


def hold_out(
    purpose: str, images: Split, share: float, seed: int, classes: Sequence[str]
) -> tuple[Split, Split]:
    """Hold out a stratified `share` of `images`: (rest, held out).

    An error message calls the images that are held out `purpose`.

    Raises:
        DataError: a class has too few images to be split; the message names it.

    """
    try:
        rest, held_out = stratified_indices(images.labels, share, seed)
    except ValueError as error:
        problem = _too_few(images.labels, share, classes) or f"{error}; add images"
        raise DataError(f"cannot hold out {purpose}: {problem}") from error
    return images.take(rest), images.take(held_out)


def stratified_indices(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose images by their labels, (N,), and return the indices of (rest, held out).

    At least as many images as there are classes are held out, and left.

    Raises:
        ValueError: a class has too few images.

    """
    # scikit-learn is slow to import, and `limelight --help` does not need it.
    from sklearn.model_selection import StratifiedShuffleSplit

    count, classes = math.ceil(share * len(labels)), len(np.unique(labels))
    if count < classes <= len(labels) - classes:
        count = classes
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=count, random_state=seed)
    rest, held_out = next(splitter.split(labels, labels))
    return np.sort(rest), np.sort(held_out)


def stratified_sample(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Choose `count` images, or all, by their labels (N,): indices in the order of the labels.

    Each class has its share of them, to within one image.
    """
    in_classes = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    count = min(count, len(labels))
    return in_classes[np.arange(count) * len(labels) // count]


def _too_few(labels: NDArray[np.int64], share: float, classes: Sequence[str]) -> str | None:
    present, counts = np.unique(labels, return_counts=True)
    single = [
        repr(classes[label]) if classes else f"number {label}"
        for label, count in zip(present, counts, strict=True)
        if count == 1
    ]
    if single:
        kind, verb = ("class", "has") if len(single) == 1 else ("classes", "have")
        return (
            f"the {kind} {', '.join(single)} {verb} only one image, and each needs at least 2: "
            f"add images, or remove the {kind}"
        )
    if len(labels) < 2 * len(present):
        return (
            f"{len(labels)} images are too few for {len(present)} classes: provide at least "
            f"{2 * len(present)}"
        )
    fewest = (1 - share) * len(labels)
    if fewest < len(present):
        return (
            f"{1 - share:.0%} of {len(labels)} images is too few for {len(present)} classes: "
            f"provide at least {int(np.ceil(len(present) / (1 - share)))} images"
        )
    return None
