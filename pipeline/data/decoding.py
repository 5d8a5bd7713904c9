"""Decoding of many image files by several processes, into an image cache."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

from limelight.artifact.manifest import ImageRule
from pipeline.data import image_worker
from pipeline.data.image_cache import ImageCache, Record
from pipeline.data.image_worker import read_image
from pipeline.data.reading import Progress, Reading

# So few images take less time than the start of a process.
_FEW = 48
_CHUNK = 16
_SECONDS_BETWEEN_WRITES = 2.0

Work = Sequence[tuple[int, str]]
"""Rows and paths of the files to read."""


def decode_missing(
    cache: ImageCache, paths: Sequence[Path], rule: ImageRule, reading: Reading
) -> None:
    """Read those of `paths` that the cache has not, or has in an older version.

    Args:
        cache: receives the images, and what cannot be read.
        paths: the files.
        rule: converts an image to the network's input.
        reading: the processes.

    Raises:
        DataError: the disk has no room.

    """
    missing = cache.missing(paths)
    if not missing:
        return
    first = cache.reserve(len(missing))
    work = [(first + number, str(path)) for number, path in enumerate(missing)]
    if len(work) <= _FEW:
        _decode_here(cache, work, rule)
        return
    count = min(reading.workers or len(os.sched_getaffinity(0)), -(-len(work) // _CHUNK))
    chunks = iter([work[at : at + _CHUNK] for at in range(0, len(work), _CHUNK)])
    log = _Log(cache, len(work), reading.progress)
    try:
        with ThreadPoolExecutor(count) as threads:
            done = [threads.submit(_drive, chunks, log, rule, cache.pixels) for _ in range(count)]
            try:
                for each in done:
                    each.result()
            except BaseException:
                log.stopped = True
                raise
    finally:
        log.write()


def _decode_here(cache: ImageCache, work: Work, rule: ImageRule) -> None:
    with cache.pixels.open("ab"):
        pixels = os.open(cache.pixels, os.O_WRONLY)
    try:
        cache.write([read_image(Path(path), row, rule, pixels) for row, path in work])
    finally:
        os.close(pixels)


def _drive(chunks: Iterator[Work], log: "_Log", rule: ImageRule, pixels: Path) -> None:
    """Give chunks to one process after the other until there are none."""
    worker = _Worker(rule, pixels)
    try:
        while not log.stopped and (chunk := log.next_of(chunks)):
            records = worker.read(chunk)
            if records is None:
                worker.close()
                worker, records = _read_singly(chunk, rule, pixels)
            log.add(records)
    finally:
        worker.close()


def _read_singly(chunk: Work, rule: ImageRule, pixels: Path) -> tuple["_Worker", list[Record]]:
    """Find the files of a chunk that end the process which decodes them."""
    records, worker = [], _Worker(rule, pixels)
    for row, path in chunk:
        read = worker.read([(row, path)])
        if read is None:
            worker.close()
            worker = _Worker(rule, pixels)
            read = [Record(path, 0, 0, row, "", "the process that decoded it was ended")]
        records += read
    return worker, records


class _Log:
    """Collects the records of all threads, and writes them to the journal now and then."""

    def __init__(self, cache: ImageCache, total: int, progress: Progress) -> None:
        self._cache, self._total, self._progress = cache, total, progress
        self._lock = threading.Lock()
        self._unwritten: list[Record] = []
        self._done, self._written_at = 0, time.monotonic()
        self.stopped = False

    def next_of(self, chunks: Iterator[Work]) -> Work | None:
        with self._lock:
            return next(chunks, None)

    def add(self, records: Sequence[Record]) -> None:
        with self._lock:
            self._unwritten += records
            self._done += len(records)
            self._progress(self._done, self._total)
            if time.monotonic() - self._written_at > _SECONDS_BETWEEN_WRITES:
                self.write()

    def write(self) -> None:
        self._cache.write(self._unwritten)
        self._unwritten, self._written_at = [], time.monotonic()


class _Worker:
    """Process that runs `image_worker`."""

    def __init__(self, rule: ImageRule, pixels: Path) -> None:
        # It imports from where this process does; one thread for each process is enough.
        found = os.pathsep.join(path for path in sys.path if path)
        # Not by the terminal, whose Ctrl-C is for this process.
        self._process = subprocess.Popen(
            [sys.executable, "-P", image_worker.__file__, rule.model_dump_json(), str(pixels)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        self._to = cast("TextIO", self._process.stdin)
        self._from = cast("TextIO", self._process.stdout)

    def read(self, work: Work) -> list[Record] | None:
        """Read files; None if the process ended."""
        try:
            self._to.write(json.dumps(work) + "\n")
            self._to.flush()
        except BrokenPipeError:
            return None
        line = self._from.readline()
        return [Record(*fields) for fields in json.loads(line)] if line.endswith("\n") else None

    def close(self) -> None:
        """End the process."""
        for stream in (self._to, self._from):
            with suppress(BrokenPipeError):
                stream.close()
        self._process.wait()
