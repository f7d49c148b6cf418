"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .records import LatentmemError


def write_whole(
    file: Path,
    text: str,
    remedy: str = "give another file",
    *,
    folders: bool = False,
    name: str = "",
) -> None:
    """Write a file whole or not at all: what it held stays until then. `folders`: make those that
    lead to it. Raises LatentmemError with this remedy, which calls the file by `name` or its
    path."""
    try:
        if (
            file.exists() and not file.is_file()
        ):  # a pipe or a device, such as /dev/stdout, cannot be replaced
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
        raise LatentmemError(
            f"{name or file} cannot be written ({getattr(e, 'strerror', None) or e}): {remedy}."
        ) from None


# ---------- Small files that survive a kill: lines that are only ever appended, and files that are replaced whole.


@contextmanager
def _touched(path: Path, how: str) -> Iterator[None]:
    """What the system says of a file (a full disk, no such folder, no permission) becomes one
    sentence."""
    try:
        yield
    except OSError as e:
        raise LatentmemError(
            f"{path} cannot be {how} ({e.strerror}): make room or give another folder, then start "
            "again to go on."
        ) from None


class Log:
    """JSON values, one a line, appended and synced. One process at a time; without a path, in
    memory only.

    A last line without its end was being written when the process was killed: it is cut off. Any
    other line that is not JSON raises LatentmemError, as does a file that cannot be read or
    written.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is None:
            return
        with _touched(path, "opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                file.seek(0)
                whole = 0
                for line in file:
                    whole += len(line) if line.endswith(b"\n") else 0
                file.truncate(whole)

    def read(self) -> list[Any]:
        """All values, in the order of writing."""
        if self.path is None:
            return []
        values = []
        with _touched(self.path, "read"), open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    values.append(json.loads(line))
                except ValueError as e:
                    raise LatentmemError(
                        f"{self.path}, line {number} is damaged ({e}): delete the line, or the "
                        "file, and what it held is computed again."
                    ) from None
        return values

    def append(self, value: Any) -> None:
        """Add a value; it is on disk when this returns. NaN and infinity are refused."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        if self.path is None:
            return
        with _touched(self.path, "written"), open(self.path, "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Replace a file by this value, whole or not at all. Raises LatentmemError."""
    with replacing(path) as part:
        part.write_bytes(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which replaces the file once it is whole. Raises LatentmemError."""
    with _touched(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, path)


def read_json(path: Path) -> Any:
    """The value of a file, None if there is no such file. Raises LatentmemError if it cannot be
    read or is not JSON."""
    with _touched(path, "read"):
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as e:
            raise LatentmemError(
                f"{path} is damaged ({e}): delete its folder to learn again."
            ) from None
