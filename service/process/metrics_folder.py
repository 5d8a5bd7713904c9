"""Folder of one start in which the workers keep their metrics.

Two services on one machine must not share it. A service that was killed leaves its folder behind,
and the next start removes it. A lock, which the kernel releases, tells whether it is in use.
"""

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_PREFIX = "limelight-metrics-"
_LOCK = "lock"


def accept_full_disk() -> None:
    """Use the folder for temporary files although its disk is full; call this before the first use.

    Python tries to write a file there, and else takes the current folder, or none. But only folders
    and sockets are made here, which need no room.
    """
    try:
        usable = Path(tempfile.gettempdir()) != Path.cwd()
    except FileNotFoundError:
        usable = False
    if not usable:
        tempfile.tempdir = os.environ.get("TMPDIR", "/tmp")  # noqa: S108  # Python's own choice


class MetricsFolder:
    """A new folder that only this user can read.

    Raises:
        OSError: it cannot be created.
    """

    def __init__(self) -> None:
        _remove_unused(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = _locked(self.path / _LOCK, os.O_CREAT)

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _locked(file: Path, flags: int = 0) -> int | None:
    """Return a descriptor of the file, which is locked while it is open; None: another has it."""
    descriptor = os.open(file, os.O_RDWR | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_unused(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        # Another user's folder cannot be read, and another start may remove the same one.
        with contextlib.suppress(OSError):
            lock = _locked(folder / _LOCK)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
