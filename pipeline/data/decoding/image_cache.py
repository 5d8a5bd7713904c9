"""Cache of a user's images, decoded to the size of a network's input.

Each folder of images has one cache folder for each image rule. It has two files, which only grow:
`pixels` has a row for each image that was read, uint8 (H, W, C), and `journal.jsonl` a line for
each file. So interrupted reading is continued, and afterwards only new and changed files are read.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from limelight.imaging.image_rule import ImageRule
from pipeline.atomic_files import writing
from pipeline.data.dataset_cache import CHOOSE_CACHE, cache_folder
from pipeline.errors import DataError

MORE_ROOM = "set XDG_CACHE_HOME to a folder with more room, or choose a smaller --image-size"
"""Advice where the images cannot be written."""
PIXELS, JOURNAL = "pixels", "journal.jsonl"
# A new number makes earlier caches invalid: increase it if the same file gives other pixels.
_VERSION = 1
_UNUSED_S = 30 * 24 * 3600
_SPARE_BYTES = 64 << 20
_SPARE_ROWS = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a file after it was read; a line of the journal."""

    path: str
    size: int
    mtime_ns: int
    row: int
    """Row of its pixels, if `problem` is None."""
    sha256: str
    """Digest of the file."""
    problem: str | None
    """Why it could not be read."""

    def is_of(self, status: os.stat_result) -> bool:
        """Tell whether the file is the one that was read."""
        return (self.size, self.mtime_ns) == (status.st_size, status.st_mtime_ns)


class ImageCache:
    """Cache folder of the images in `source` by one image rule; see `opened_cache`.

    Args:
        folder: the cache folder.
        rule: the image rule.
        lock: descriptor of the locked file, for the processes that write to `pixels`: the lock is
            held until the last of them has closed it.

    """

    def __init__(self, folder: Path, rule: ImageRule, lock: int) -> None:
        self.folder, self.pixels, self.lock = folder, folder / PIXELS, lock
        self._journal = folder / JOURNAL
        self._row_bytes = rule.height * rule.width * rule.channels
        self.records = _read_journal(self._journal)
        self._rows = 1 + max((record.row for record in self.records.values()), default=-1)

    def missing(self, paths: Sequence[Path]) -> list[Path]:
        """Return those of `paths` that must be read: new, changed and unreadable files.

        If most rows belong to other files, the cache is emptied first.
        """
        if self._rows > 2 * len(paths) + _SPARE_ROWS:
            self.pixels.unlink(missing_ok=True)
            self._journal.unlink(missing_ok=True)
            self._rows, self.records = 0, {}
        return [path for path in paths if not self._has(path)]

    def reserve(self, images: int) -> int:
        """Reserve rows for `images` in the file `pixels`, and return the first of them.

        Raises:
            DataError: the disk has no room for them.
            UnwritableError: the file cannot be written.

        """
        needed = images * self._row_bytes
        free = shutil.disk_usage(self.folder).free
        if needed > free - _SPARE_BYTES:
            raise DataError(
                f"{self.folder} needs {needed / 1e9:.1f} GB for {images:,} images, and has "
                f"{free / 1e9:.1f} GB: {MORE_ROOM}"
            )
        with writing(self.folder, MORE_ROOM):
            self.pixels.touch(mode=0o600)
        first, self._rows = self._rows, self._rows + images
        return first

    def write(self, records: Sequence[Record]) -> None:
        """Add records to the journal; their pixels are on the disk first.

        Raises:
            UnwritableError: the disk has no room for the pixels or the journal.

        """
        lines = "".join(json.dumps(asdict(record)) + "\n" for record in records)
        with writing(self.folder, MORE_ROOM):
            with self.pixels.open("ab") as pixels:
                os.fsync(pixels.fileno())
            with self._journal.open("a") as journal:
                journal.write(lines)
        self.records.update((record.path, record) for record in records)

    def _has(self, path: Path) -> bool:
        record = self.records.get(str(path))
        if record is None or record.problem is not None:
            return False
        try:
            return record.is_of(path.stat())
        except OSError:
            return False


@contextmanager
def opened_cache(source: Path, rule: ImageRule) -> Iterator[ImageCache]:
    """Open the cache of the images in `source`; another process that opens it says so and waits.

    Caches that were not used for 30 days are deleted.

    Raises:
        UnwritableError: the user's cache folder cannot be written.

    """
    key = hashlib.sha256(f"{_VERSION} {source.resolve()} {rule.model_dump_json()}".encode())
    home = cache_folder() / "images"
    folder = home / key.hexdigest()[:32]
    with writing(folder, CHOOSE_CACHE):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        _delete_unused(home)
        lock = (folder / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("waiting for another process that reads the images in %s", source)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield ImageCache(folder, rule, lock.fileno())


def _delete_unused(home: Path) -> None:
    for folder in home.iterdir():
        if folder.stat().st_mtime < time.time() - _UNUSED_S:
            shutil.rmtree(folder, ignore_errors=True)


def _read_journal(file: Path) -> dict[str, Record]:
    """Read the last record of each path; an incomplete last line is ignored."""
    records: dict[str, Record] = {}
    if not file.is_file():
        return records
    for line in file.read_text().splitlines():
        try:
            record = Record(**json.loads(line))
        except (ValueError, TypeError):
            continue
        records[record.path] = record
    return records
