"""Decoders of the files that data sets are published in."""

import gzip
import json
import tarfile
from collections.abc import Callable, Mapping
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError

Arrays = dict[str, NDArray[np.uint8]]
"""A data set by `ARRAYS`: images (N, H, W, C) and labels (N,)."""
Decoder = Callable[[Mapping[str, bytes]], Arrays]
"""Makes a data set of the content of files, by their names."""

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
MNIST_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CIFAR10_ARCHIVE = "cifar-10-binary.tar.gz"


def mnist_arrays(files: Mapping[str, bytes]) -> Arrays:
    """Decode MNIST's four idx files.

    Raises:
        KeyError: one is missing.
        DataError: one is not an idx file of uint8, or is shorter than its header says.

    """
    contents = (files[name] for name in MNIST_FILES)
    return dict(zip(ARRAYS, map(_idx, contents), strict=True))


def mnist_gzip_arrays(files: Mapping[str, bytes]) -> Arrays:
    """Decode MNIST's four idx files, each compressed by gzip; see `mnist_arrays`."""
    return mnist_arrays(
        {name.removesuffix(".gz"): gzip.decompress(content) for name, content in files.items()}
    )


def _idx(content: bytes) -> NDArray[np.uint8]:
    if content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise DataError("not an idx file of unsigned bytes")
    dimensions = content[3]
    shape = tuple(np.frombuffer(content, ">i4", dimensions, 4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    if values.size != np.prod(shape):
        raise DataError(f"idx file with {values.size:,} values where its header says {shape}")
    # Images get a channel axis: (N, 28, 28) -> (N, 28, 28, 1).
    return values.reshape(shape if dimensions == 1 else (*shape, 1)).copy()


def cifar10_binary_arrays(files: Mapping[str, bytes]) -> Arrays:
    """Decode CIFAR-10's archive of binary batches: a label and 3 planes of 32x32 pixels a record.

    The other archive of its authors holds pickles, which can run code.

    Raises:
        DataError: a batch is missing.
        ValueError: a batch is short.

    """
    batches: dict[str, NDArray[np.uint8]] = {}
    with tarfile.open(fileobj=BytesIO(files[CIFAR10_ARCHIVE])) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            stream = tar.extractfile(member) if name.endswith(".bin") else None
            if stream is not None:
                batches[name] = np.frombuffer(stream.read(), np.uint8)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    if missing := [name for name in [*names, "test_batch.bin"] if name not in batches]:
        raise DataError(f"{CIFAR10_ARCHIVE}: {', '.join(missing)} missing")
    train = np.concatenate([batches[name] for name in names]).reshape(-1, 3073)
    test = batches["test_batch.bin"].reshape(-1, 3073)
    return dict(zip(ARRAYS, (*_cifar10_records(train), *_cifar10_records(test)), strict=True))


def _cifar10_records(
    records: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()


def cifar10_sprite_arrays(files: Mapping[str, bytes]) -> Arrays:
    """Decode CIFAR-10 from PNG sprites and JSON lists of labels.

    Raises:
        KeyError: a file is missing.

    """
    sprites = [_sprite_images(files[f"data_batch_{number}.png"]) for number in range(1, 6)]
    return {
        "train_images": np.concatenate(sprites),
        "train_labels": np.array(json.loads(files["train_lables.json"]), np.uint8),
        "test_images": _sprite_images(files["test_batch.png"]),
        "test_labels": np.array(json.loads(files["test_lables.json"]), np.uint8),
    }


def _sprite_images(png: bytes) -> NDArray[np.uint8]:
    """Decode a picture whose rows of 1,024 pixels are one image each -> (N, 32, 32, 3)."""
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


def fashion_arrays(
    files: Mapping[str, bytes], *, classes: int = 10, train: int = 500, test: int = 200
) -> Arrays:
    """Decode a sample of Fashion-MNIST from a JSON file for each class: LABEL.json.

    The first `train` images of each class are for training, the next `test` for the test.

    Raises:
        KeyError: a file is missing.
        DataError: a file has another form, or too few images.

    """
    by_class = []
    for label in range(classes):
        images = np.asarray(json.loads(files[f"{label}.json"])["data"][: train + test], np.uint8)
        if images.shape != (train + test, 784):
            raise DataError(f"grey levels of shape {images.shape}, not 28x28 images")
        by_class.append(images.reshape(-1, 28, 28, 1))
    labels = np.arange(classes, dtype=np.uint8)
    return {
        "train_images": np.concatenate([images[:train] for images in by_class]),
        "train_labels": labels.repeat(train),
        "test_images": np.concatenate([images[train:] for images in by_class]),
        "test_labels": labels.repeat(test),
    }


def small_digits_arrays() -> Arrays:
    """Scale scikit-learn's digits of 8x8 pixels to bytes; the last fifth is for the test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.uint8)
    # The images are in the order of their writers: nobody in the last fifth wrote any other.
    border = len(labels) * 4 // 5
    parts = images[:border], labels[:border], images[border:], labels[border:]
    return dict(zip(ARRAYS, parts, strict=True))
