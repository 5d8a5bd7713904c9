"""End of a worker whose parent has died: nobody would replace or stop it, and it holds the port."""

import ctypes
import os
import signal
import sys

PARENT = "_LIMELIGHT_PARENT_PID"
"""Variable in which a worker finds the process ID of its parent."""
_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def end_with_parent() -> None:
    """Let the kernel send SIGTERM to this process when its parent dies, e.g. of SIGKILL.

    Without a parent of ours, or elsewhere than on Linux, nothing happens.
    """
    if PARENT not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if is_orphan():  # it died before that call
        os.kill(os.getpid(), signal.SIGTERM)


def is_orphan() -> bool:
    """Return True if the parent has died."""
    parent = os.environ.get(PARENT)
    return parent is not None and os.getppid() != int(parent)
