"""The user's cache: one verified file for each published data set."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.atomic_files import new_file, writing
from pipeline.data.archive_formats import ARRAYS, Arrays
from pipeline.errors import DataError

CHOOSE_CACHE = "make room, or set XDG_CACHE_HOME to another folder"
"""Advice where the cache cannot be written."""


def cache_folder() -> Path:
    """Folder `limelight` in the user's cache folder (`XDG_CACHE_HOME`, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limelight"


def cached_file(name: str) -> Path:
    """Path of a published data set in the cache, whether it was fetched or not."""
    return cache_folder() / f"{name}.npz"


def writable_cache_folder() -> Path:
    """Make the cache folder, if it is not there, and return it.

    Raises:
        UnwritableError: it cannot be made or written.

    """
    folder = cache_folder()
    with writing(folder, CHOOSE_CACHE):
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    return folder


def read_cached(name: str, sha256: Mapping[str, str]) -> Arrays:
    """Read a published data set from the cache: images (N, H, W, C) and labels (N,), uint8.

    `sha256` are the digests that its arrays must have.

    Raises:
        DataError: it was not fetched, or its file is corrupt.

    """
    check_cached(name)
    file = cached_file(name)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ARRAYS}
        verify(name, arrays, sha256)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, DataError) as error:
        raise DataError(f"{file} is corrupt ({error}); delete it and {_remedy(name)}") from error
    return arrays


def check_cached(name: str) -> None:
    """Check that a published data set is in the cache, without reading it.

    Raises:
        DataError: it was not fetched.

    """
    file = cached_file(name)
    if not file.is_file():
        raise DataError(f"{name} is not in the cache ({file}); {_remedy(name)}")


def _remedy(name: str) -> str:
    return f"run `limelight data fetch {name}`"


def verify(name: str, arrays: Arrays, sha256: Mapping[str, str]) -> None:
    """Compare decoded arrays with their published SHA-256.

    Raises:
        DataError: an array differs; the message names the first one.

    """
    for key, expected in sha256.items():
        if array_sha256(arrays[key]) != expected:
            raise DataError(f"{name}: {key} {arrays[key].shape} is not the published data")


def array_sha256(array: NDArray[np.uint8]) -> str:
    """SHA-256 of an array's shape and bytes, in C order."""
    digest = hashlib.sha256(str(array.shape).encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def write_cached(name: str, arrays: Arrays) -> Path:
    """Write a data set to the cache atomically, and return its file.

    Raises:
        UnwritableError: it cannot be written, as on a full disk.

    """
    file = cached_file(name)
    with new_file(file, CHOOSE_CACHE) as part, part.open("wb") as stream:
        np.savez(stream, allow_pickle=False, **arrays)
    return file
