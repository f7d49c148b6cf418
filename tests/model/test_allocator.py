"""A full device is one sentence, and what was read of a file goes back."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from latentmem.model.allocator import file_pages, give_back, let_go, memory_errors
from latentmem.records import LatentmemError

LINUX = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="asks the system as Linux does"
)
MB = 2**20


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_a_full_device_is_one_sentence() -> None:
    def work(kind: type[Exception]):
        yield 1
        raise kind("CUDA out of memory. Tried to allocate 20.00 GiB.")

    with pytest.raises(
        LatentmemError, match="The memory of the device is full: use fewer rollouts"
    ):
        list(memory_errors(work)(torch.OutOfMemoryError))
    with pytest.raises(RuntimeError, match="Tried"):
        list(memory_errors(work)(RuntimeError))


@LINUX
def test_what_was_read_of_a_file_goes_back_and_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"w": torch.arange(16 * MB, dtype=torch.int32)}, file)
    w = load_file(file)["w"]
    total = int(w.long().sum())
    give_back()
    before = resident()
    gone = let_go(w.data_ptr(), w.nbytes, file_pages())
    assert w.nbytes - 2 * 4096 <= gone <= w.nbytes and before - resident() > 0.9 * gone
    assert int(w.long().sum()) == total


def test_memory_that_is_no_files_is_left_alone() -> None:
    w = torch.arange(MB)
    assert let_go(w.data_ptr(), w.nbytes, file_pages()) == 0 and int(w[-1]) == MB - 1
    assert let_go(w.data_ptr(), w.nbytes, []) == 0
    assert let_go(w.data_ptr(), 100, [(0, sys.maxsize)]) == 0, "less than a page"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_holes_go_back_to_the_system() -> None:
    parts = [torch.ones(MB // 64) for _ in range(3200)]  # 64 kB each, on the heap
    pins = parts[::320]
    del parts
    before = resident()
    give_back()
    assert before - resident() > 100 * MB and all(float(p.sum()) == MB // 64 for p in pins)
