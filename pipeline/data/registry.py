"""The data sets by name, and images of one's own with their labels, all in one form."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from limelight.artifact.manifest import ImageRule
from pipeline.data.cache import PUBLISHED, load_cached
from pipeline.data.class_balance import class_counts, class_weights, imbalance_report
from pipeline.data.class_subsets import DERIVED, resized, take_classes
from pipeline.data.csv_table import list_table
from pipeline.data.image_folder import list_folder
from pipeline.data.image_reader import ImageReader
from pipeline.data.labelled_files import LabelledFiles
from pipeline.data.splits import Split, set_aside, split_validation
from pipeline.errors import DataError

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "class_counts",
    "class_weights",
    "imbalance_report",
    "load_dataset",
    "split_validation",
]

DIGITS = tuple("0123456789")
CIFAR10_CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
FASHION_CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle boot",
)  # fmt: skip
DATASETS = (*PUBLISHED, "digits8", *DERIVED)


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
    skipped: tuple[str, ...] = ()
    """Each file that could not be read, and why."""

    @property
    def sha256(self) -> str:
        """Digest of the four arrays, in the order train images, labels, test images, labels."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(np.ascontiguousarray(split.images).tobytes())
            digest.update(split.labels.astype("<i8").tobytes())
        return digest.hexdigest()


def load_dataset(source: str, *, image_size: int | tuple[int, int] = 64) -> Dataset:
    """Load a data set by its name, a folder of labelled images or a CSV file of paths and labels.

    `image_size` is what the images of a folder, a CSV file or ``cats-and-dogs`` are brought to: a
    side, or (height, width), in pixels. The published sets keep their own.

    Raises:
        DataError: if the data is not there or is corrupt; the message says how to get it.

    """
    if source in PUBLISHED:
        return _published(source)
    if source == "digits8":
        return _digits8()
    if source in DERIVED:
        return _derived(source, image_size)
    path = Path(source)
    if path.is_dir():
        return _labelled(path, list_folder(path), image_size)
    if path.is_file() and path.suffix.lower() == ".csv":
        return _labelled(path, list_table(path), image_size)
    raise DataError(
        f"{source!r} is neither a data set ({', '.join(DATASETS)}) nor a folder of labelled images "
        "nor a CSV file of paths and labels"
    )


def digit_rule(side: int) -> ImageRule:
    """Bright ink on black, centred by mass, as MNIST was made; paper is inverted."""
    return ImageRule(
        height=side, width=side, mode="L", fit="ink", invert="light-border", background=255
    )


def photo_rule(size: int | tuple[int, int]) -> ImageRule:
    """The largest centred part of a colour photograph of these proportions, (height, width).

    Raises:
        DataError: `size` is not one that a network can have.

    """
    height, width = (size, size) if isinstance(size, int) else size
    try:
        return ImageRule(
            height=height, width=width, mode="RGB", fit="crop", invert="never", background=255
        )
    except ValidationError as error:
        raise DataError(
            f"image size {height} x {width}: each side must be 1 to 4096 pixels"
        ) from error


def _published(name: str) -> Dataset:
    arrays = load_cached(name)
    classes, rule = {
        "mnist": (DIGITS, digit_rule(28)),
        "cifar10": (CIFAR10_CLASSES, photo_rule(32)),
        "fashion": (FASHION_CLASSES, photo_rule(28).model_copy(update={"mode": "L"})),
    }[name]
    return Dataset(
        name=name,
        classes=classes,
        image=rule,
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


def _derived(name: str, image_size: int | tuple[int, int]) -> Dataset:
    recipe = DERIVED[name]
    parent = _published(recipe.parent)
    rule = photo_rule(image_size) if recipe.resized else parent.image
    train, test = (
        take_classes(split, parent.classes, recipe.classes) for split in (parent.train, parent.test)
    )
    if recipe.resized:
        train, test = (Split(resized(part.images, rule), part.labels) for part in (train, test))
    return replace(parent, name=name, classes=recipe.classes, image=rule, train=train, test=test)


def _labelled(path: Path, files: LabelledFiles, image_size: int | tuple[int, int]) -> Dataset:
    rule = photo_rule(image_size)
    reader = ImageReader(rule)
    train = reader.read(files.train)
    test = None if files.test is None else reader.read(files.test)
    reader.report()
    if test is None:
        train, test = set_aside("test images", train, share=0.2, seed=0, classes=files.classes)
    return Dataset(
        name=path.resolve().stem if path.is_file() else path.resolve().name,
        classes=files.classes,
        image=rule,
        train=train,
        test=test,
        licence="the owner's",
        source=files.described,
        skipped=tuple(reader.skipped),
    )
