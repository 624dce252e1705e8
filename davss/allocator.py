"""Memory of a process on a CPU: what is freed stays with the process for the next step.

The steps of a sampler or of training ask for the same feature maps again and again, tens of
megabytes each. glibc hands such memory back to the system when it is freed, and the next step
waits for every page of it to be made anew: most of the time of what is bound by memory, and a third
or more of all (docs/benchmarks.md).
"""

import ctypes
import functools
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
LARGEST = 2**31 - 1  # bytes at the end of the heap that are kept, as a C int


@functools.cache
def keep_freed_memory() -> None:
    """Have malloc keep what is freed, once per process; does nothing where malloc is not glibc's.

    The process then stays as large as it was at its largest. It changes no result.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)  # no block has a mapping of its own, which would go with it
    mallopt(M_TRIM_THRESHOLD, LARGEST)
