"""The data sets by name, and a folder of labelled images, all in one form."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedShuffleSplit

from pipeline.cache import PUBLISHED, load_cached
from pipeline.errors import DataError
from pipeline.folder import read_folder
from service.manifest import ImageRule

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
DATASETS = ("mnist", "cifar10", "digits8")


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Training and test images with the facts that travel into the manifest."""

    name: str
    classes: tuple[str, ...]
    image: ImageRule
    train: Split
    test: Split
    licence: str
    source: str

    @property
    def sha256(self) -> str:
        """Digest of the four arrays, in the order train images, labels, test images, labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.images).tobytes())
            digest.update(split.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def split_validation(train: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Set aside a stratified `share` of the training images: (fitting, validation).

    Raises:
        DataError: if a class has too few images to be split.

    """
    return _set_aside("a validation split", train, share, seed)


def _set_aside(what: str, images: Split, share: float, seed: int) -> tuple[Split, Split]:
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=share, random_state=seed)
    try:
        rest, aside = next(splitter.split(images.labels, images.labels))
    except ValueError as error:
        raise DataError(f"cannot set {what} aside ({error}); add images") from error
    return images.take(np.sort(rest)), images.take(np.sort(aside))


def load_dataset(source: str, *, image_size: int = 64) -> Dataset:
    """Load `mnist`, `cifar10`, `digits8` or the folder of labelled images at `source`.

    `image_size` is the side, in pixels, that a folder's images are brought to.

    Raises:
        DataError: if the data is not there or is corrupt; the message says how to get it.

    """
    if source in PUBLISHED:
        return _published(source)
    if source == "digits8":
        return _digits8()
    if Path(source).is_dir():
        return _folder(Path(source), image_size)
    raise DataError(
        f"{source!r} is neither a data set ({', '.join(DATASETS)}) nor a folder of labelled images"
    )


def digit_rule(side: int) -> ImageRule:
    """Bright ink on black, centred by mass, as MNIST was made; paper is inverted."""
    return ImageRule(
        height=side, width=side, mode="L", fit="ink", invert="light-border", background=255
    )


def photo_rule(side: int) -> ImageRule:
    """The centred square of a colour photograph."""
    return ImageRule(
        height=side, width=side, mode="RGB", fit="crop", invert="never", background=255
    )


def _published(name: str) -> Dataset:
    arrays = load_cached(name)
    is_mnist = name == "mnist"
    return Dataset(
        name=name,
        classes=DIGITS if is_mnist else CIFAR10_CLASSES,
        image=digit_rule(28) if is_mnist else photo_rule(32),
        train=Split(arrays["train_images"], arrays["train_labels"].astype(np.int64)),
        test=Split(arrays["test_images"], arrays["test_labels"].astype(np.int64)),
        licence=PUBLISHED[name].licence,
        source=PUBLISHED[name].citation,
    )


def _digits8() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int64)
    # The images are in the order of their writers: the last fifth are people not trained on.
    border = len(labels) * 4 // 5
    return Dataset(
        name="digits8",
        classes=DIGITS,
        image=digit_rule(8),
        train=Split(images[:border], labels[:border]),
        test=Split(images[border:], labels[border:]),
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
    )


def _folder(folder: Path, image_size: int) -> Dataset:
    rule = photo_rule(image_size)
    parts = folder / "train", folder / "test"
    if all(part.is_dir() for part in parts):
        classes, images, labels = read_folder(parts[0], rule)
        train = Split(images, labels)
        test_classes, images, labels = read_folder(parts[1], rule)
        test = Split(images, labels)
        if classes != test_classes:
            raise DataError(f"{folder}: train has the classes {classes}, test {test_classes}")
    else:
        classes, images, labels = read_folder(folder, rule)
        train, test = _set_aside("test images", Split(images, labels), share=0.2, seed=0)
    return Dataset(
        name=folder.resolve().name,
        classes=classes,
        image=rule,
        train=train,
        test=test,
        licence="the owner's",
        source="a folder of labelled images",
    )
