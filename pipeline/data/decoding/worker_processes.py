"""Decoding of many image files by several processes, into an image cache."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from pathlib import Path
from typing import TextIO, cast

from limelight.imaging.image_rule import ImageRule
from pipeline.atomic_files import UnwritableError, writing
from pipeline.data.decoding import image_worker
from pipeline.data.decoding.image_cache import MORE_ROOM, ImageCache, Record
from pipeline.data.decoding.image_worker import read_image
from pipeline.data.reading_options import ImageProgress, Reading

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
        DataError: the disk has no room for all images.
        UnwritableError: the cache cannot be written.

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
            done = [threads.submit(_drive, chunks, log, rule, cache) for _ in range(count)]
            try:
                # The first error stops the other processes, too.
                for each in as_completed(done):
                    each.result()
            except BaseException:
                log.stopped = True
                raise
    finally:
        log.write()


def _decode_here(cache: ImageCache, work: Work, rule: ImageRule) -> None:
    with writing(cache.folder, MORE_ROOM), cache.pixels.open("r+b") as pixels:
        records = [read_image(Path(path), row, rule, pixels.fileno()) for row, path in work]
    cache.write(records)


def _drive(chunks: Iterator[Work], log: "_Log", rule: ImageRule, cache: ImageCache) -> None:
    """Give chunks to one process after the other until there are none."""
    worker = _Worker(rule, cache)
    try:
        while not log.stopped and (chunk := log.next_of(chunks)):
            records = worker.read(chunk)
            if records is None:
                worker.close()
                worker, records = _read_singly(chunk, rule, cache)
            log.add(records)
    finally:
        worker.close()


def _read_singly(chunk: Work, rule: ImageRule, cache: ImageCache) -> tuple["_Worker", list[Record]]:
    """Find the files of a chunk that end the process which decodes them."""
    records, worker = [], _Worker(rule, cache)
    try:
        for row, path in chunk:
            read = worker.read([(row, path)])
            if read is None:
                worker.close()
                worker = _Worker(rule, cache)
                read = [Record(path, 0, 0, row, "", "the process that decoded it was ended")]
            records += read
    except UnwritableError:
        worker.close()
        raise
    return worker, records


class _Log:
    """Collects the records of all threads, and writes them to the journal now and then."""

    def __init__(self, cache: ImageCache, total: int, progress: ImageProgress) -> None:
        self._cache, self._total, self._progress = cache, total, progress
        self._lock = threading.Lock()
        self._unwritten: list[Record] = []
        self._done, self._written_at = 0, time.monotonic()
        self._failed = False
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
        # Not after an error: fsync reports lost pixels once, and then succeeds without them.
        if self._failed:
            return
        self._failed = True
        self._cache.write(self._unwritten)
        self._failed = False
        self._unwritten, self._written_at = [], time.monotonic()


class _Worker:
    """Process that runs `image_worker`, and writes to the rows of `cache`."""

    def __init__(self, rule: ImageRule, cache: ImageCache) -> None:
        self._cache = cache
        # It imports from where this process does; one thread for each process is enough.
        found = os.pathsep.join(path for path in sys.path if path)
        # Not by the terminal, whose Ctrl-C is for this process.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", image_worker.__file__),
                *(rule.model_dump_json(), str(cache.pixels)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": found, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
            # If this process is killed, the worker finishes its chunk, and the next command waits.
            pass_fds=(cache.lock,),
        )
        self._to = cast("TextIO", self._process.stdin)
        self._from = cast("TextIO", self._process.stdout)

    def read(self, work: Work) -> list[Record] | None:
        """Read files; None if the process ended.

        Raises:
            UnwritableError: the cache cannot be written.

        """
        try:
            self._to.write(json.dumps(work) + "\n")
            self._to.flush()
        except BrokenPipeError:
            return None
        line = self._from.readline()
        if not line.endswith("\n"):
            return None
        answer = json.loads(line)
        if not isinstance(answer, list):
            raise UnwritableError(self._cache.folder, answer, MORE_ROOM)
        return [Record(*fields) for fields in answer]

    def close(self) -> None:
        """End the process."""
        for stream in (self._to, self._from):
            with suppress(BrokenPipeError):
                stream.close()
        self._process.wait()
