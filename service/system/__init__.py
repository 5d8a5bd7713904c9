"""Priorities of threads and use of memory, as far as the system and its C library allow."""
