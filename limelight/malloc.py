"""Options of the C library's allocator, which glibc has."""

import ctypes
from collections.abc import Mapping

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8


def set_malloc_options(options: Mapping[int, int]) -> bool:
    """Set options of malloc for this process. Return True if all were accepted."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # another C library, or Windows
        return False
    accepted = [mallopt(name, value) == 1 for name, value in options.items()]
    return all(accepted)
