"""Settings of the C library's allocator that keep the memory use of a worker constant."""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 128 * 1024


def limit_memory_growth() -> bool:
    """Make malloc return freed memory of large uploads to the system. Return True on success.

    By default, glibc raises its thresholds to the size of the largest block that was ever freed,
    and keeps a heap per thread. Both grow with the variety of the uploads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not Linux, or another C library
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGE, _M_TRIM_THRESHOLD: _LARGE, _M_ARENA_MAX: 2}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
