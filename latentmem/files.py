"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from .records import LatentmemError


def write_whole(file: Path, text: str, remedy: str = "give another file", *, folders: bool = False, name: str = "") -> None:
    """Write a file whole or not at all: what it held stays until then. `folders`: make those that lead to it. Raises
    LatentmemError with this remedy, which calls the file by `name` or its path."""
    try:
        if file.exists() and not file.is_file():  # a pipe or a device, such as /dev/stdout, cannot be replaced
            file.write_text(text, encoding="utf-8")
            return
        whole = file.resolve()  # a link goes on pointing to it
        if folders:
            whole.parent.mkdir(parents=True, exist_ok=True)
        part = whole.with_name(f"{whole.name}.{os.getpid()}.part")
        try:
            with part.open("w", encoding="utf-8") as out:
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            os.replace(part, whole)
        finally:
            part.unlink(missing_ok=True)
    except (OSError, RuntimeError) as e:  # RuntimeError: links in a circle
        raise LatentmemError(f"{name or file} cannot be written ({getattr(e, 'strerror', None) or e}): {remedy}.") from None
