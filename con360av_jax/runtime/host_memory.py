"""Keeping the memory of freed batches, for the command line only: a library does not choose for the whole process."""

import ctypes

# From glibc's malloc.h: names and what they mean are in mallopt(3).
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_KEPT = 1 << 26
MOST_KEPT = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Makes glibc keep freed arrays of up to 64 MiB; returns whether it does (other C libraries are left as they are).

    A loader frees and allocates the same megabytes for every record. Given back to the system, each page comes back
    zeroed at its first touch, which takes longer than reading and checking the record.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, MOST_KEPT))
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in settings)
