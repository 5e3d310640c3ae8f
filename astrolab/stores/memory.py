"""Memory for one chunk after another: kept, not handed back to the kernel in between, and returned after the last."""

import ctypes
import sys

import pyarrow as pa

KEPT_BYTES = 1 << 28
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8  # glibc's malloc.h


def keep_memory():
    """Let this process keep up to 256 MB that it frees for what it needs next, as the workers of `start_cluster` do.

    By itself the C library hands arrays as large as a chunk back to the kernel, which clears every page again: half of
    the processor time of an ingest. Where the library is not glibc, nothing is done.

    Examples
    --------
    >>> keep_memory()
    """
    if hasattr(_c_library(), "mallopt"):
        for option, value in ((_TRIM_THRESHOLD, KEPT_BYTES), (_MMAP_THRESHOLD, KEPT_BYTES), (_ARENA_MAX, 1)):
            _c_library().mallopt(option, value)


def return_memory():
    """Hand back to the kernel what this process kept, at the end of a pass: what follows may need it elsewhere.

    Examples
    --------
    >>> return_memory()
    """
    pa.default_memory_pool().release_unused()  # of columns of text
    if hasattr(_c_library(), "malloc_trim"):
        _c_library().malloc_trim(0)


def _c_library():
    return ctypes.CDLL(None) if sys.platform == "linux" else None
