"""How the C library's allocator keeps memory: not more of it from one day to the next."""

import ctypes

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGE = 128 * 1024


def keep_memory_flat() -> bool:
    """Give what large uploads took back to the system; whether the C library can.

    Left alone, glibc takes the size of the largest block that was ever freed for what it should
    keep at hand, and keeps a heap for each thread: both grow with the variety of the uploads.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not Linux, or another C library
        return False
    settings = {_M_MMAP_THRESHOLD: _LARGE, _M_TRIM_THRESHOLD: _LARGE, _M_ARENA_MAX: 2}
    done = [mallopt(name, value) == 1 for name, value in settings.items()]
    return all(done)
