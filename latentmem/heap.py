"""What the C library does with freed memory: kept for the next large tensor, not given back to the system each time."""

from __future__ import annotations

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
LARGEST = 2**30


def keep_pages() -> bool:
    """Let tensors of up to a gigabyte reuse memory that the process has had before. True if the C library can.

    glibc maps every allocation above 32 MB anew, and the system then clears each of its pages: 64 rows of logits are 39 MB,
    several times a decode step. Seen with 64 rows of the default model on two cores: 8.5 s of system time beside 27 s of
    work without this, 1.2 s with it. What is free now goes back to the system; from then on the process keeps as much memory
    as it once needed at most.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        library = ctypes.CDLL(None)
        mallopt, trim = library.mallopt, library.malloc_trim
    except (OSError, AttributeError):  # another C library
        return False
    trim(0)
    return bool(mallopt(MMAP_THRESHOLD, LARGEST) and mallopt(TRIM_THRESHOLD, 2 * LARGEST - 1))
