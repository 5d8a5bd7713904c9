"""JSON that the parent process and its workers share in memory, without any file.

A full disk or a deleted folder does not concern it. Every process writes a slot of its own. A
checksum tells a reader that a slot was being written, so that it reads again later.
"""

import contextlib
import fcntl
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any, Self

DESCRIPTOR = "_LIMELIGHT_REPOSITORY_FD"
"""Variable in which a worker finds the file descriptor of the memory."""
_HEAD = struct.Struct("=II")  # checksum, bytes
# Pages that are not written take no memory.
_SLOT_BYTES = 1 << 20


class SharedJson:
    """Slots of JSON in shared memory: slot 0 is the parent's, and each worker has one."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    @classmethod
    def create(cls, workers: int) -> Self:
        """Make memory for the parent and its workers, which inherit the descriptor."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("limelight-repository", 0)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.set_inheritable(descriptor, True)
        os.ftruncate(descriptor, (1 + workers) * _SLOT_BYTES)
        return cls(descriptor)

    @classmethod
    def inherited(cls) -> Self | None:
        """Open the memory that the parent made; None without such a parent."""
        descriptor = os.environ.get(DESCRIPTOR)
        return None if descriptor is None else cls(int(descriptor))

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until no other process is in this block. The death of a process ends its turn."""
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)

    def write(self, slot: int, content: Any) -> None:
        """Write a slot; only its owner may do so.

        Raises:
            ValueError: the content takes more than a megabyte.
        """
        payload = json.dumps(content).encode()
        if len(payload) > _SLOT_BYTES - _HEAD.size:
            raise ValueError(f"{len(payload):,} bytes do not fit a slot of {_SLOT_BYTES:,}")
        head = _HEAD.pack(zlib.crc32(payload), len(payload))
        os.pwrite(self.descriptor, head + payload, slot * _SLOT_BYTES)

    def read(self, slot: int) -> Any:
        """Read a slot; None if it is empty or being written."""
        start = slot * _SLOT_BYTES
        checksum, size = _HEAD.unpack(os.pread(self.descriptor, _HEAD.size, start))
        if not 0 < size <= _SLOT_BYTES - _HEAD.size:
            return None
        payload = os.pread(self.descriptor, size, start + _HEAD.size)
        return json.loads(payload) if zlib.crc32(payload) == checksum else None
