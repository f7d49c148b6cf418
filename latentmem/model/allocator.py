"""Memory: one sentence when the device's is full, and what goes back to the system."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from ..records import LatentmemError

P = ParamSpec("P")
Y = TypeVar("Y")
R = TypeVar("R")

DONT_NEED = 4  # Linux's madvise


def memory_errors(work: Callable[P, Generator[Y, None, R]]) -> Callable[P, Generator[Y, None, R]]:
    """A generator of tensor work that raises LatentmemError when the device's memory is full."""

    @wraps(work)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> Generator[Y, None, R]:
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

    return guarded


def give_back() -> None:
    """Return free memory to the system, where the C library can (glibc). Takes milliseconds.

    Tensors of many sizes leave holes in the heap that the next ones do not fit. With a call before
    each batch, the peak of 64 rows of the default model falls from 2.58 to 2.29 GB.
    """
    with suppress(AttributeError, OSError, TypeError):  # another C library, or another system
        ctypes.CDLL(None).malloc_trim(0)


def file_pages() -> list[tuple[int, int]]:
    """(first address, address after the last) of everything this process maps from files; empty
    where the system does not show it."""
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
    """Give the pages of these bytes back to the system if one of `files` holds them; returns how
    many bytes went.

    What was read of a mapped file counts as this process's memory until the mapping ends, even if
    only a copy is in use: half a gigabyte of the default model at its peak. Another read fetches it
    from the file again. Memory of no file would be lost, so it stays.
    """
    page = mmap.PAGESIZE
    first, after = -(-address // page) * page, (address + size) // page * page
    if first >= after or not any(a <= first and after <= b for a, b in files):
        return 0
    done = ctypes.CDLL(None).madvise(
        ctypes.c_void_p(first), ctypes.c_size_t(after - first), DONT_NEED
    )
    return after - first if done == 0 else 0
