"""Work in a child process that is watched: its progress arrives in the caller's own thread, and it
is killed at once when the caller is cancelled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ...records import Status

Progress = Callable[[Status], None]
MB = 1_000_000
PACKAGE_ROOT = Path(__file__).resolve().parents[3]
_POLL = 0.25  # seconds between two looks at the child


def run_watched(
    command: Sequence[str], env: Mapping[str, str], tick: Callable[[], None]
) -> tuple[int, str]:
    """Run a command and call `tick` about four times a second. Returns (exit status, its output).

    The child is killed when `tick` raises, as for a cancelled caller, and on ctrl-C.
    """
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=dict(env)
        )
        try:
            while True:
                try:
                    child.wait(_POLL)
                    break
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        log.seek(0)
        return child.returncode, log.read().decode(errors="replace")


def run_module(
    name: str, arguments: Sequence[str], tick: Callable[[], None], **env: str
) -> tuple[int, str]:
    """`run_watched` for a module of this folder, of this very package."""
    path = os.pathsep.join(p for p in (str(PACKAGE_ROOT), os.environ.get("PYTHONPATH", "")) if p)
    command = [sys.executable, "-m", f"latentmem.model.weights.{name}", *arguments]
    return run_watched(command, {**os.environ, "PYTHONPATH": path, **env}, tick)


def last_line(error: Exception) -> str:
    """What a child says last, and its parent turns into a sentence: 'kind: message'."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def disk_full(output: str) -> bool:
    """Whether a child's output says that the disk filled up."""
    return "No space left on device" in output or "Errno 28" in output


def tree_size(folder: Path) -> int:
    """Bytes of all files below the folder; files that vanish meanwhile count as nothing."""
    total = 0
    for base, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(base, name)).st_size
            except FileNotFoundError:
                continue  # a child's temporary file, gone between listing and looking
    return total
