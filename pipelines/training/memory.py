"""Keep freed memory: on a CPU the page faults of big activations can cost more than the arithmetic."""

from __future__ import annotations

import ctypes
import ctypes.util
import sys

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Parameter numbers of glibc's mallopt(3)."""


def keep_freed_memory() -> bool:
    """Ask glibc not to hand freed blocks back to the system; False where there is no glibc.

    Call it before the first large allocation.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 4097))
