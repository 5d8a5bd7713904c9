"""Settings of the C library's allocator that keep the memory use of a worker constant."""

import ctypes
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from limelight.malloc import (
    M_ARENA_MAX,
    M_MMAP_THRESHOLD,
    M_TRIM_THRESHOLD,
    set_malloc_options,
)

_LARGE = 128 * 1024
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
# Memory above the least so far that is worth a look, as a share.
_WORTHWHILE = 0.05
_INTERVAL_S = 10.0


def limit_memory_growth() -> bool:
    """Make malloc return freed memory of large uploads to the system. Return True on success.

    By default, glibc raises its thresholds to the size of the largest block that was ever freed,
    and keeps a heap per thread. Both grow with the variety of the uploads.
    """
    return set_malloc_options({M_MMAP_THRESHOLD: _LARGE, M_TRIM_THRESHOLD: _LARGE, M_ARENA_MAX: 2})


class Trimmer:
    """Returns the memory that many small blocks have left behind to the system.

    By itself glibc returns only the end of a heap, and one block there keeps the rest. Most such
    blocks are those of gRPC messages and of broken-off uploads.
    """

    def __init__(self, interval_s: float = _INTERVAL_S) -> None:
        self._interval_s = interval_s
        self._next_s = time.monotonic() + interval_s
        self._least_bytes = resident_bytes()
        self._malloc_trim: Any = None
        # Neither Windows nor other C libraries have it.
        with suppress(OSError, AttributeError, TypeError):
            self._malloc_trim = ctypes.CDLL(None).malloc_trim

    def trim(self) -> None:
        """Return memory, if it is time and there may be some."""
        if self._malloc_trim is None or time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + self._interval_s
        if resident_bytes() > self._least_bytes * (1 + _WORTHWHILE):
            self._malloc_trim(0)
        self._least_bytes = min(self._least_bytes, resident_bytes())


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 if the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0
