"""Memory limits for the processes of a service: a cgroup where one can be made."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_V2, _V1 = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")


@dataclass(frozen=True)
class Limit:
    """Memory limit; without a `folder` nothing enforces it, and the caller has to look."""

    folder: Path | None
    limit_bytes: int

    @property
    def description(self) -> str:
        if self.folder is None:
            return "summed PSS, watched (no cgroup can be made here)"
        return f"memory cgroup {'v1' if self._is_v1 else 'v2'}"

    @property
    def command(self) -> Sequence[str]:
        """Prefix of a command, which moves it into the cgroup."""
        if self.folder is None:
            return ()
        return ("/bin/sh", "-c", f'echo $$ > {self.folder}/cgroup.procs && exec "$@"', "sh")

    def kills(self) -> int:
        """Return how many processes the kernel has killed for memory."""
        if self.folder is None:
            return 0
        file = "memory.oom_control" if self._is_v1 else "memory.events"
        words = (self.folder / file).read_text().split()
        return int(words[words.index("oom_kill") + 1])

    def peak_bytes(self) -> int | None:
        """Return the largest use so far, with the page cache."""
        if self.folder is None:
            return None
        file = "memory.max_usage_in_bytes" if self._is_v1 else "memory.peak"
        with suppress(FileNotFoundError):
            return int((self.folder / file).read_text())
        return None

    @property
    def _is_v1(self) -> bool:
        return self.folder is not None and self.folder.parent == _V1


@contextmanager
def memory_limit(limit_bytes: int) -> Iterator[Limit]:
    """Make a cgroup for the block, if this user may."""
    made: Path | None = None
    for parent, file in ((_V2, "memory.max"), (_V1, "memory.limit_in_bytes")):
        folder = parent / f"limelight-hostile-{os.getpid()}"
        try:
            if parent == _V2 and "memory" not in (_V2 / "cgroup.subtree_control").read_text():
                continue
            folder.mkdir()
        except OSError:
            continue
        try:
            (folder / file).write_text(str(limit_bytes))
        except OSError:
            folder.rmdir()
            continue
        made = folder
        break
    try:
        yield Limit(made, limit_bytes)
    finally:
        if made is not None:
            made.rmdir()


def proportional_bytes(parent: int) -> int:
    """Return the summed proportional set size of a process and its descendants."""
    total = 0
    for process in family(parent):
        with suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def family(parent: int) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        found = psutil.Process(parent)
        return [found, *found.children(recursive=True)]
    return []


def workers(parent: int) -> list[psutil.Process]:
    """Return BentoML's worker processes."""
    found = []
    for process in family(parent):
        with suppress(psutil.NoSuchProcess):
            if "service.worker" in " ".join(process.cmdline()):
                found.append(process)
    return found
