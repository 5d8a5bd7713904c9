"""Worker connection counts, in memory that all workers share."""

import mmap
import os
import struct
import time
from pathlib import Path

# Age from which a published count is ignored: its worker is dead or blocked.
_STALE_S = 1.0
_SLOT = struct.Struct("=dq")


class ConnectionCounts:
    """Worker connection counts, in memory that all workers share.

    Args:
        path: file behind the shared memory; created if it does not exist.
        worker: number of this worker, from 0.
        workers: number of workers.
    """

    def __init__(self, path: Path, *, worker: int, workers: int) -> None:
        self._own = worker
        self._others = [number for number in range(workers) if number != worker]
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            size = workers * _SLOT.size
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)
        finally:
            os.close(descriptor)

    def publish(self, connections: int) -> None:
        """Write the number of connections of this worker."""
        _SLOT.pack_into(self._memory, self._own * _SLOT.size, time.monotonic(), connections)

    def least(self) -> int | None:
        """Return the lowest count of another worker; None if there is no other worker."""
        oldest, counts = time.monotonic() - _STALE_S, []
        for number in self._others:
            published, connections = _SLOT.unpack_from(self._memory, number * _SLOT.size)
            if published > oldest:
                counts.append(int(connections))
        return min(counts, default=None)
