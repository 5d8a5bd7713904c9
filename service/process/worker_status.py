"""Status of the workers in memory that they share with their parent, without any file.

A full disk or a deleted folder does not concern it. A worker publishes how many connections it has.
That is also its sign of life: the parent replaces a worker that no longer publishes. The parent
publishes how many workers have died.
"""

import mmap
import os
import struct
import tempfile
import time
from typing import Self

DESCRIPTOR = "_LIMELIGHT_STATUS_FD"
"""Variable in which a worker finds the file descriptor of the memory."""
_DEATHS = struct.Struct("=q")  # of the parent, before the slots of the workers
_SLOT = struct.Struct("=qdq")  # process ID, time, connections
# Age from which a published count is ignored: its worker is dead or blocked.
_STALE_S = 1.0


class WorkerStatus:
    """Status of all workers.

    Args:
        descriptor: shared memory, which `create` makes.
        worker: number of this worker, from 0; None in the parent.
    """

    def __init__(self, descriptor: int, *, worker: int | None = None) -> None:
        size = os.fstat(descriptor).st_size
        self._memory = mmap.mmap(descriptor, size)
        self._slots = range(_DEATHS.size, size, _SLOT.size)
        self._own = worker
        self.descriptor = descriptor

    @classmethod
    def create(cls, slots: int) -> Self:
        """Make memory for `slots` workers; child processes inherit its descriptor."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("limelight-status", 0)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.set_inheritable(descriptor, True)
        os.ftruncate(descriptor, _DEATHS.size + slots * _SLOT.size)
        return cls(descriptor)

    @classmethod
    def of_worker(cls, worker: int) -> Self | None:
        """Open the memory that the parent made; None without such a parent."""
        descriptor = os.environ.get(DESCRIPTOR)
        return None if descriptor is None else cls(int(descriptor), worker=worker)

    @property
    def deaths(self) -> int:
        """Number of workers that have died since the start, and were replaced."""
        return int(_DEATHS.unpack_from(self._memory)[0])

    @deaths.setter
    def deaths(self, number: int) -> None:
        _DEATHS.pack_into(self._memory, 0, number)

    def publish(self, connections: int) -> None:
        """Write the number of connections of this worker."""
        if self._own is not None:
            content = (os.getpid(), time.monotonic(), connections)
            _SLOT.pack_into(self._memory, self._slots[self._own], *content)

    def least(self) -> int | None:
        """Return the lowest number of connections of another worker; None if there is no other."""
        oldest = time.monotonic() - _STALE_S
        counts = [
            connections
            for slot, (_, published, connections) in enumerate(self._all())
            if slot != self._own and published > oldest
        ]
        return min(counts, default=None)

    def published(self, pid: int) -> float | None:
        """Return the time at which a process last published; None: it has not yet."""
        times = [published for process, published, _ in self._all() if process == pid]
        return max(times, default=None)

    def clear(self, pid: int) -> None:
        """Remove what a process that has ended published: another one may get its ID."""
        for at, (process, _, _) in zip(self._slots, self._all(), strict=True):
            if process == pid:
                _SLOT.pack_into(self._memory, at, 0, 0.0, 0)

    def _all(self) -> list[tuple[int, float, int]]:
        return [_SLOT.unpack_from(self._memory, at) for at in self._slots]
