"""Values of a worker's metrics, in files that the workers share, and that no full disk can break.

`prometheus_client` maps sparse files into memory. If the disk has no room for a page, the kernel
kills the process that writes to it (SIGBUS). Here the room is reserved first. Without room, or
without the folder, the values stay in the memory of the worker, which serves on.
"""

import contextlib
import mmap
import os
import struct
from io import BufferedRandom
from pathlib import Path
from typing import ClassVar

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict

_INITIAL_BYTES = 1 << 16
_LENGTH = struct.Struct("=i")
_HEADER_BYTES = 8
# At most this much more than its key: the library's length, padding, value and time of an entry.
_ENTRY_BYTES = 32


class SharedValues(MmapedDict):
    """File of values in place of the library's; in memory while it cannot be a file.

    Attributes:
        problem: reason why the values are in memory only; None: they are in the file.
    """

    opened: ClassVar[list["SharedValues"]] = []
    """All files of this process."""

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        self.problem: OSError | None = None
        self._path = Path(filename)
        self._f: BufferedRandom | None = None  # type: ignore[assignment]  # None as in `close`
        self._positions: dict[str, int] = {}
        content = _LENGTH.pack(_HEADER_BYTES)
        with contextlib.suppress(OSError):  # of an earlier process with the same ID
            content = self._path.read_bytes() or content
        self._used: int = _LENGTH.unpack_from(content)[0]
        self._capacity = max(_INITIAL_BYTES, len(content))
        self._m = mmap.mmap(-1, self._capacity)
        self._m[: len(content)] = content
        for key, _, _, position in self._read_all_values():  # type: ignore[no-untyped-call]
            self._positions[key] = position
        self.repair()
        self.opened.append(self)

    def repair(self) -> None:
        """Move the values into a new file, if they are in memory or their file was deleted."""
        if self._f is not None and _is_at(self._f, self._path):
            return
        part = self._path.with_suffix(".part")
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with contextlib.ExitStack() as undo:
                file = undo.enter_context(part.open("w+b"))
                undo.callback(part.unlink, missing_ok=True)
                _reserve(file, self._capacity)
                memory = mmap.mmap(file.fileno(), self._capacity)
                memory[: self._used] = self._m[: self._used]
                part.rename(self._path)
                undo.pop_all()
        except OSError as error:
            self.problem = error
            return
        if self._f is not None:
            self._f.close()
        self._f, self._m, self.problem = file, memory, None

    def _init_value(self, key: str) -> None:
        while self._used + len(key.encode()) + _ENTRY_BYTES > self._capacity:
            self._grow()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _grow(self) -> None:
        capacity = 2 * self._capacity
        if self._f is not None:
            try:
                _reserve(self._f, capacity)
                self._m = mmap.mmap(self._f.fileno(), capacity)
            except OSError as error:
                self.problem = error
                with contextlib.suppress(OSError):
                    os.ftruncate(self._f.fileno(), self._capacity)
                self._f.close()
                self._f = None
        if self._f is None:
            memory = mmap.mmap(-1, capacity)
            memory[: self._used] = self._m[: self._used]
            self._m = memory
        self._capacity = capacity


def repair_all() -> OSError | None:
    """Repair all files of this process. Return why one of them is in memory only, or None."""
    for each in SharedValues.opened:
        each.repair()
    return next((each.problem for each in SharedValues.opened if each.problem is not None), None)


def install() -> None:
    """Make `prometheus_client` use these files; call this before the first metric is made."""
    values.MmapedDict = SharedValues  # type: ignore[attr-defined]


def _reserve(file: BufferedRandom, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        os.ftruncate(file.fileno(), size)


def _is_at(file: BufferedRandom, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False
