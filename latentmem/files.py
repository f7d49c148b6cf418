"""Files that are written whole or not at all, and logs to which lines are only ever appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .records import LatentmemError

HERE = Path(__file__).resolve().parent
AGAIN = "make room or give another folder, then start again to go on"


@contextmanager
def file_errors(name: str | Path, how: str, remedy: str = AGAIN) -> Iterator[None]:
    """Turns what the system says of a file (full disk, no permission) into one sentence: the file
    `name` cannot be `how` (written, read)."""
    try:
        yield
    except OSError as e:
        raise LatentmemError(f"{name} cannot be {how} ({e.strerror or e}): {remedy}.") from None


def example(name: str) -> Path:
    """A file of the folder `examples`, which lies beside the package in a checkout and inside it
    where latentmem was installed."""
    beside = HERE.parent / "examples" / name
    return beside if beside.is_file() else HERE / "examples" / name


# ---------- Written whole or not at all.


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path beside `path` to write a file to. When the block ends, that file is on the disk and
    takes the place of `path`; when it raises, `path` stays as it was. Raises OSError."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def put_in_place(made: Path, folder: Path) -> None:
    """Give a folder its final name once everything in it is on the disk. Raises OSError."""
    for file in made.rglob("*"):
        if file.is_file():
            sync(file)
    os.replace(made, folder)


def sync(file: Path) -> None:
    """Wait until a file is on the disk. Raises OSError."""
    with open(file, "rb+") as one:
        os.fsync(one.fileno())


def write_whole(
    file: Path,
    text: str,
    remedy: str = "give another file",
    *,
    folders: bool = False,
    name: str = "",
) -> None:
    """Write a text file whole or not at all. `folders`: make those that lead to it. Raises
    LatentmemError with this remedy, which calls the file by `name` or its path."""
    with file_errors(name or file, "written", remedy):
        if file.exists() and not file.is_file():  # /dev/stdout, a pipe: they cannot be replaced
            file.write_text(text, encoding="utf-8")
            return
        try:
            whole = file.resolve()  # a link goes on pointing to it
        except RuntimeError as e:  # links in a circle
            raise OSError(str(e)) from None
        if folders:
            whole.parent.mkdir(parents=True, exist_ok=True)
        with replacing(whole) as part:
            part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a value whole or not at all. Raises LatentmemError; ValueError for NaN and infinity."""
    write_whole(path, json.dumps(value, ensure_ascii=False, allow_nan=False), AGAIN, folders=True)


def read_json(path: Path) -> Any:
    """The value in a file, None without such a file. Raises LatentmemError if it cannot be read or
    is not JSON."""
    with file_errors(path, "read"):
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as e:
            raise LatentmemError(
                f"{path} is damaged ({e}): delete its folder to learn again."
            ) from None


# ---------- Logs.


def append(path: Path, lines: str) -> None:
    """Add whole lines to a file; they are on the disk when this returns. Raises OSError."""
    with open(path, "ab") as file:
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def read_lines(path: Path) -> list[Any]:
    """The JSON values of a file, one a line, without a last line that a kill cut off; none without
    a file. Raises LatentmemError if it cannot be read or another line is not JSON."""
    values: list[Any] = []
    if not path.exists():
        return values
    with file_errors(path, "read"), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                values.append(json.loads(line))
            except ValueError as e:
                raise LatentmemError(
                    f"{path}, line {number} is damaged ({e}): delete the line, or the file, and "
                    "what it held is computed again."
                ) from None
    return values


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
        with file_errors(path, "opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "ab+") as file:
                file.seek(0)
                file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))

    def read(self) -> list[Any]:
        """All values, in the order of writing."""
        return [] if self.path is None else read_lines(self.path)

    def append(self, value: Any) -> None:
        """Add a value; it is on the disk when this returns. Raises ValueError for NaN and
        infinity."""
        line = json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
        if self.path is not None:
            with file_errors(self.path, "written"):
                append(self.path, line)
