"""What becomes of memory that is needed no more: kept by the C library for the next large tensor,
or given back."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable, Generator, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ..records import LatentmemError

P = ParamSpec("P")
Y = TypeVar("Y")
R = TypeVar("R")

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt
LARGEST = 2**30
DONT_NEED = 4  # Linux's madvise


@cache
def _library() -> Any:
    """The C library, where it is Linux's; None elsewhere."""
    return ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def keep_pages() -> bool:
    """Let tensors of up to a gigabyte reuse memory that the process has had before. True if the C
    library can.

    glibc maps every allocation above 32 MB anew, and the system then clears each of its pages: 64
    rows of logits are 39 MB, several times a decode step. Seen with 64 rows of the default model on
    two cores: 8.5 s of system time beside 27 s of work without this, 1.2 s with it. What is free
    now goes back to the system; from then on the process keeps as much memory as it once needed at
    most, until the next `give_back`.
    """
    return give_back() and bool(
        _library().mallopt(MMAP_THRESHOLD, LARGEST)
        and _library().mallopt(TRIM_THRESHOLD, 2 * LARGEST - 1)
    )


def roomy(work: Callable[P, Generator[Y, None, R]]) -> Callable[P, Generator[Y, None, R]]:
    """A generator of tensor work that says in one sentence that the device's memory is full. Raises
    LatentmemError."""

    @wraps(work)
    def told(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, None, R]:
        try:
            return (yield from work(*args, **kwargs))
        except RuntimeError as e:
            import torch

            if not isinstance(e, torch.OutOfMemoryError):
                raise
            raise LatentmemError(
                "The memory of the device is full: use fewer rollouts, shorter traces "
                "(max_new_tokens) or fewer problems at a time; `latentmem evaluate` has --rows "
                "and --together for that."
            ) from None

    return told


def give_back() -> bool:
    """What is free goes back to the system, wherever it lies. True if the C library can. Takes
    milliseconds.

    Tensors of many sizes leave holes that the next ones do not fit into, so that a process that
    keeps its pages grows
    slowly: three steps of a memory by 0.3 GB. Called once a batch, where clearing the pages again
    is little.
    """
    try:
        _library().malloc_trim(0)
    except AttributeError:  # another system, or another C library
        return False
    return True


def file_pages() -> list[tuple[int, int]]:
    """(first address, first behind it) of all that is mapped from files; nothing where the system
    does not tell."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        where, _, _, _, inode, *_ = line.split(maxsplit=5)
        if inode != "0":
            begin, end = where.split("-")
            found.append((int(begin, 16), int(end, 16)))
    return found


def let_go(address: int, size: int, files: Sequence[tuple[int, int]]) -> int:
    """The pages of these bytes go back if a file of `files` holds them; how many bytes did.

    What has been read of a mapped file counts as this process's memory until the mapping ends, also
    when only a copy of it is in use. Read once more, it comes from the file. Memory that is no
    file's would be lost, and is left alone.
    """
    page = mmap.PAGESIZE
    first, behind = -(-address // page) * page, (address + size) // page * page
    if first >= behind or not any(a <= first and behind <= b for a, b in files):
        return 0
    done = _library().madvise(ctypes.c_void_p(first), ctypes.c_size_t(behind - first), DONT_NEED)
    return behind - first if done == 0 else 0
