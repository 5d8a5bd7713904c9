"""Labelled images, and setting a share of them aside."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from pipeline.errors import DataError


@dataclass(frozen=True, slots=True)
class Split:
    """Images, uint8 (N, H, W, C), and their labels, int64 (N,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: NDArray[np.int64]) -> "Split":
        """The images at `indices`, (M,), in that order."""
        return Split(self.images[indices], self.labels[indices])


def split_validation(
    train: Split, share: float, seed: int, classes: Sequence[str] = ()
) -> tuple[Split, Split]:
    """Set aside a stratified `share` of the training images: (fitting, validation).

    `classes` are the labels' names, for the message of an error.

    Raises:
        DataError: if a class has too few images to be split; the message names it.

    """
    return set_aside("validation images", train, share, seed, classes)


def set_aside(
    what: str, images: Split, share: float, seed: int, classes: Sequence[str]
) -> tuple[Split, Split]:
    """Set a stratified `share` of `images` aside, which an error calls `what`: (rest, aside).

    Raises:
        DataError: if a class has too few images to be split; the message names it.

    """
    try:
        rest, aside = choose(images.labels, share, seed)
    except ValueError as error:
        problem = _too_few(images.labels, share, classes) or f"{error}; add images"
        raise DataError(f"cannot set {what} aside: {problem}") from error
    return images.take(rest), images.take(aside)


def choose(
    labels: NDArray[np.int64], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which of the images with these labels, (N,), are set aside: indices of (rest, aside).

    Raises:
        ValueError: a class has too few.

    """
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    rest, aside = next(splitter.split(labels, labels))
    return np.sort(rest), np.sort(aside)


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
            f"the {kind} {', '.join(single)} {verb} one image only, and each needs at least 2: "
            f"add images, or take the {kind} out"
        )
    fewest = min(share, 1 - share) * len(labels)
    if fewest < len(present):
        return (
            f"{share:.0%} of {len(labels)} images is too few for {len(present)} classes: "
            f"bring at least {int(np.ceil(len(present) / min(share, 1 - share)))} images"
        )
    return None
