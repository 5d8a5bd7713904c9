"""The files that the published data sets come in, decoded."""

import json
import tarfile
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError

Arrays = dict[str, NDArray[np.uint8]]
"""A data set by `ARRAYS`: images (N, H, W, C) and labels (N,)."""

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def mnist_arrays(files: list[bytes]) -> Arrays:
    """Decode MNIST's four idx files, in the order of `ARRAYS`.

    Raises:
        DataError: if one is not an idx file of uint8 or is shorter than its header says.

    """
    return dict(zip(ARRAYS, (_idx(file) for file in files), strict=True))


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


def cifar10_binary_arrays(archive: Path) -> Arrays:
    """Decode CIFAR-10's binary form: records of a label and 3 planes of 32x32 pixels.

    Raises:
        DataError: if a batch is missing or short.

    """
    batches: dict[str, NDArray[np.uint8]] = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            name = member.name.rpartition("/")[2]
            stream = tar.extractfile(member) if name.endswith(".bin") else None
            if stream is not None:
                batches[name] = np.frombuffer(stream.read(), np.uint8)
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    if missing := [name for name in [*names, "test_batch.bin"] if name not in batches]:
        raise DataError(f"{archive.name}: {', '.join(missing)} missing")
    train = np.concatenate([batches[name] for name in names]).reshape(-1, 3073)
    test = batches["test_batch.bin"].reshape(-1, 3073)
    return dict(zip(ARRAYS, (*_cifar10_records(train), *_cifar10_records(test)), strict=True))


def _cifar10_records(
    records: NDArray[np.uint8],
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].copy()


def sprite_images(png: bytes) -> NDArray[np.uint8]:
    """Decode a picture with one row of 1,024 pixels an image -> (N, 32, 32, 3)."""
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


def fashion_arrays(files: list[bytes], *, fitting: int = 500, testing: int = 200) -> Arrays:
    """Decode a sample of Fashion-MNIST from JSON, a file a class: its first images of each.

    Raises:
        DataError: if a file is not of that form, or has too few images.

    """
    classes = []
    for file in files:
        images = np.asarray(json.loads(file)["data"][: fitting + testing], np.uint8)
        if images.shape != (fitting + testing, 784):
            raise DataError(f"grey levels of shape {images.shape}, not 28x28 images")
        classes.append(images.reshape(-1, 28, 28, 1))
    labels = np.arange(len(classes), dtype=np.uint8)
    return {
        "train_images": np.concatenate([images[:fitting] for images in classes]),
        "train_labels": labels.repeat(fitting),
        "test_images": np.concatenate([images[fitting:] for images in classes]),
        "test_labels": labels.repeat(testing),
    }
