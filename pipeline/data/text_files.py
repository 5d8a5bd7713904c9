"""Published texts, and their place in the cache: UTF-8, without byte order mark, with LF."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.atomic_files import new_file
from pipeline.data.dataset_cache import CHOOSE_CACHE, cache_folder, writable_cache_folder
from pipeline.data.download import download
from pipeline.errors import DataError
from pipeline.progress import Progress, silent

logger = logging.getLogger("limelight.data")

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedText:
    """A text with a name."""

    url: str
    sha256: str
    """Digest of the normalised text."""
    licence: str
    citation: str
    recipe: str


TEXTS: Mapping[str, PublishedText] = {
    "nietzsche": PublishedText(
        url="https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        sha256="dea01ca2da603db6736fd856c585d073ccf3dca68efe4a59c5e73242cdf0b028",
        licence="public domain",
        citation="Nietzsche, Beyond Good and Evil and other works, in English",
        recipe="char-gru",
    ),
}


def fetch_text(name: str, file: Path | None = None, progress: Progress = silent) -> Path:
    """Put a published text into the cache, from `file` or from its address, and return its path.

    A text that is already there stays, unless there is a `file`. Another text than the published
    one is a warning, since other editions train as well.

    Raises:
        DataError: it cannot be read or downloaded.
        UnwritableError: the cache cannot be written.

    """
    entry, cached = TEXTS[name], text_path(name)
    if file is None and cached.is_file():
        return cached
    downloaded = writable_cache_folder() / "downloads" / f"{name}.txt"
    try:
        if file is None:
            file = download(entry.url, downloaded, progress)
        content = _read(file)
        if text_sha256(content) != entry.sha256:
            logger.warning(
                "%s is not the text that the lessons use (SHA-256 %s instead of %s): losses differ",
                file, text_sha256(content), entry.sha256,
            )  # fmt: skip
        with new_file(cached, CHOOSE_CACHE) as part:
            part.write_bytes(content)
    finally:
        # A good text is in the cache from now on, and a bad one must be downloaded again.
        downloaded.unlink(missing_ok=True)
    return cached


def _read(file: Path) -> bytes:
    try:
        content = normalised(file.read_bytes())
        content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); choose a UTF-8 text") from error
    return content


def cached_text(name: str) -> Path:
    """Return the path of a published text in the cache.

    Raises:
        DataError: it was not fetched.

    """
    path = text_path(name)
    if not path.is_file():
        raise DataError(f"{name} is not in the cache ({path}); run `limelight data fetch {name}`")
    return path


def text_path(name: str) -> Path:
    """Path of a published text in the cache, whether it was fetched or not."""
    return cache_folder() / f"{name}.txt"


def normalised(content: bytes) -> bytes:
    """Return a text without byte order mark, and with LF at the end of its lines."""
    content = content.removeprefix(_BYTE_ORDER_MARK)
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def text_sha256(content: bytes) -> str:
    """SHA-256 of a normalised text."""
    return hashlib.sha256(content).hexdigest()
