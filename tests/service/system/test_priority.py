"""Priority of threads: what may wait runs while a processor has nothing else to do."""

import os
import sys
import threading
from collections.abc import Callable

import pytest

from service.system.priority import use_idle_processor, yield_processor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux counts priority by thread")


def _in_thread(lower: Callable[[], None]) -> tuple[int, int]:
    """Return the scheduling policy and the niceness of a thread that calls `lower`."""
    found: list[tuple[int, int]] = []

    def run() -> None:
        lower()
        thread = threading.get_native_id()
        found.append((os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


def test_threads_lower_their_own_priority_only() -> None:
    usual = os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)
    assert _in_thread(yield_processor) == (usual[0], max(10, usual[1]))
    assert _in_thread(use_idle_processor) == (os.SCHED_IDLE, usual[1])
    assert (os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)) == usual


def test_without_scheduling_policies_the_priority_is_low(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*given: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    assert _in_thread(use_idle_processor)[1] >= 10
