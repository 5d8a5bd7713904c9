"""Downloading one file, and continuing where an earlier try broke off."""

import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pipeline.errors import DataError

Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are there and the bytes in all (0 if unknown)."""

TIMEOUT_S = 30
CHUNK_BYTES = 1 << 20


def silent(name: str, done: int, total: int) -> None:
    """A `Progress` that shows nothing."""


def download(url: str, file: Path, progress: Progress = silent) -> Path:
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
