"""Keeping the memory of freed batches; for the command line only, since it changes the whole process."""

import ctypes

# Parameters of glibc's mallopt(3), from malloc.h.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1 << 26
MOST_KEPT = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Makes glibc keep freed arrays of up to 64 MiB; returns False with other C libraries, which stay as they are.

    A loader frees and allocates the same megabytes for every record. Given back to the system, each page comes back
    zeroed at its first touch, which takes longer than reading and checking the record.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, MOST_KEPT))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
