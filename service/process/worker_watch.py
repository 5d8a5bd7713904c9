"""Watch over the workers: it says which one died, of what and how often, and finds hung ones."""

import logging
import os
import signal
import time
from dataclasses import dataclass, field

from service.process.worker_status import WorkerStatus

logger = logging.getLogger("limelight.supervision")

_START = 10
"""A worker that starts, and loads its models, may be silent for this many times as long."""


class NoWorkerStartsError(Exception):
    """Every worker dies before it serves; the message says what to do."""


@dataclass(slots=True)
class _Worker:
    number: int
    started: float = field(default_factory=time.monotonic)
    published: float | None = None
    silent_s: float = 0.0
    killed: bool = False


class WorkerWatch:
    """Watch over the worker processes.

    Args:
        status: status that the workers publish.
        workers: their number.
        timeout_s: time without a sign of life after which a worker counts as hung; 0: never.
    """

    def __init__(self, status: WorkerStatus, *, workers: int, timeout_s: float) -> None:
        self._status = status
        self._timeout_s = timeout_s
        self._alive: dict[int, _Worker] = {}
        self._deaths_at_start = 0
        # One may die at the start because the machine is busy. If all do, three times, all will.
        self._most_at_start = 3 * workers
        self._served = False

    def alive(self) -> list[int]:
        """Return the process IDs of the workers that have not ended."""
        return list(self._alive)

    def begun(self, pid: int, number: int) -> None:
        """Note that worker `number` was started."""
        self._alive.setdefault(pid, _Worker(number))

    def ended(self, pid: int, status: int, *, stopping: bool) -> None:
        """Say that a worker ended, if it was not asked to; `status` is that of `os.waitpid`.

        Raises:
            NoWorkerStartsError: see `WorkerWatch`.
        """
        self._status.clear(pid)
        worker = self._alive.pop(pid, None)
        if worker is None or stopping:
            return
        self._status.deaths += 1
        logger.error(
            "worker %d (process %d) %s after %.0f s; it is replaced. Workers that died since the "
            "start: %d",
            *(worker.number, pid, _describe(status, hung=worker.killed)),
            *(time.monotonic() - worker.started, self._status.deaths),
        )
        if not self._served:
            self._deaths_at_start += 1
            if self._deaths_at_start >= self._most_at_start:
                raise NoWorkerStartsError(
                    f"{self._deaths_at_start} workers died, and none has served: the lines before "
                    "this one say why"
                )

    def check(self, interval_s: float) -> list[tuple[int, signal.Signals]]:
        """Return the workers that have hung, with the signal to send; call this every `interval_s`.

        The first signal is SIGABRT, at which a worker that can still run says where it hangs.
        Only the time in which this process ran counts: in a pause of the whole machine, no worker
        had a chance to publish.
        """
        hung = []
        for pid, worker in self._alive.items():
            published = self._status.published(pid)
            self._served |= published is not None
            if published != worker.published:
                worker.published, worker.silent_s = published, 0.0
                continue
            worker.silent_s += interval_s
            timeout_s = self._timeout_s * (_START if published is None else 1)
            if timeout_s and worker.silent_s >= timeout_s:
                if not worker.killed:
                    logger.error(
                        "worker %d (process %d) has hung for %.0f s: it is killed and replaced",
                        *(worker.number, pid, worker.silent_s),
                    )
                hung.append((pid, signal.SIGKILL if worker.killed else signal.SIGABRT))
                worker.killed = True
        return hung


def _describe(status: int, *, hung: bool) -> str:
    """Describe the end of a process, e.g. "was killed by SIGSEGV"."""
    if not os.WIFSIGNALED(status):
        return f"exited with status {os.waitstatus_to_exitcode(status)}"
    number = os.WTERMSIG(status)
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL and not hung:
        return f"was killed by {name} (the kernel sends it if memory runs out)"
    return f"was killed by {name}"
