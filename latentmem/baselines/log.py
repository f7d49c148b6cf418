"""Small files that survive a kill: lines that are only ever appended, and files that are replaced whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..records import LatentmemError


class Log:
    """JSON values, one a line, appended and synced. One process at a time; without a path, in memory only.

    A last line without its end was being written when the process was killed: it is cut off. Any other line that is not
    JSON raises LatentmemError.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        if path is None:
            return
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
        with open(self.path, encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    values.append(json.loads(line))
                except ValueError as e:
                    raise LatentmemError(f"{self.path}, line {number} is damaged ({e}): delete the line, or the file, "
                                         "and what it held is computed again.") from None
        return values

    def append(self, value: Any) -> None:
        """Add a value; it is on disk when this returns. NaN and infinity are refused."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        if self.path is None:
            return
        with open(self.path, "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Replace a file by this value, whole or not at all."""
    write_bytes(path, json.dumps(value, ensure_ascii=False, allow_nan=False).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by these bytes, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with open(part, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_json(path: Path) -> Any:
    """The value of a file, None if there is no such file. Raises LatentmemError if it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise LatentmemError(f"{path} is damaged ({e}): delete its folder to learn again.") from None
