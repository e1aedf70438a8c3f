"""What the process does with memory that arrays have freed."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

__all__ = ["keep_freed_memory"]

# Parameters of the GNU C library's allocator, mallopt(3), and what they are set to: arrays up to
# the largest size that it allows come from the memory that is kept, of which so much may be free.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGE_BYTES = 256 * 2**20, 32 * 2**20


@cache
def keep_freed_memory() -> None:
    """Keep what arrays have freed for the next ones, where the C library lets one choose.

    One gradient's arrays are as large as the next one's. By default they are given back to the
    system after each, and got anew page by page, which takes a tenth of the time of a gradient.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
            mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
