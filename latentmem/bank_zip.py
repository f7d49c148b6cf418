"""A zip archive as untrusted input: which members it may have, how large they may be, their checksums; and how one is written.

Nothing is ever extracted to a path. A member is known by the one name it may have, so that "../x", links and folders
have no place; sizes are checked before anything is unpacked.
"""

from __future__ import annotations

import io
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO, Any

from .records import LatentmemError, from_json

FORMAT, VERSION = "latentmem-bank", 1
MANIFEST, MEMORIES, EVENTS = "manifest.json", "memories.jsonl", "events.jsonl"
ARRAYS = re.compile(r"memories/m[0-9a-f]{16}\.safetensors")

MAX_MEMORIES = 100_000
MAX_DIRECTORY = 10 << 20  # bytes of the zip's table of contents, about 100 a member
MAX_MANIFEST = 32 << 20
MAX_LINE = 16 << 20  # the words of one memory
MAX_ARRAYS = 64 << 20  # the numbers of one memory
MAX_TOTAL = 16 << 30
MAX_RATIO = 30  # unpacked to packed: deflate reaches 1000 on zeros, a bank stays below 10
RATIO_FLOOR = 64 << 20  # below this much unpacked no ratio is dangerous
CHUNK = 1 << 20

# What zipfile, zlib and the operating system raise about a broken archive.
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError, struct.error,
           IndexError, KeyError, OverflowError, ValueError)


@dataclass(frozen=True, slots=True)
class Member:
    sha256: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Manifest:
    format: str
    version: int
    memories: int
    events: int
    members: Mapping[str, Member]


Members = Mapping[str, Member]


class _Bounded:
    """A file for zipfile that refuses to read much at once: zipfile reads the whole table of contents in one piece and
    makes an object of every entry before anyone can count them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise LatentmemError(f"The archive lists more than the {MAX_MEMORIES} memories one may hold: "
                                 "export the bank in parts.")
        return data


@contextmanager
def opened(source: str | Path | IO[bytes], most: int = MAX_MEMORIES,
           most_bytes: int = MAX_TOTAL) -> Iterator[tuple[zipfile.ZipFile, Members]]:
    """The archive and its members as the manifest lists them, all checked but the arrays. Raises LatentmemError."""
    with ExitStack() as stack:
        try:
            file = stack.enter_context(open(source, "rb")) if isinstance(source, (str, Path)) else source
        except OSError as e:
            raise LatentmemError(f"{source} cannot be read ({e.strerror or e}): choose an exported bank.") from None
        with _sentence("The archive"):
            archive = zipfile.ZipFile(_Bounded(file))  # type: ignore[arg-type]
            size = file.seek(0, io.SEEK_END)
        members = _members(archive, size, most, most_bytes)
        yield archive, members


def read(archive: zipfile.ZipFile, name: str, what: str) -> bytes:
    """A whole member, whose size `opened` has checked. Raises LatentmemError."""
    with _sentence(what), archive.open(name) as member:
        return b"".join(iter(lambda: member.read(CHUNK), b""))


def lines(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """The lines of a JSONL member, each within MAX_LINE. Raises LatentmemError."""
    with _sentence(f"{name} in the archive"), archive.open(name) as packed:
        member = io.BufferedReader(packed, CHUNK)  # type: ignore[arg-type]
        while line := member.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise LatentmemError(f"{name} in the archive has a line of more than {MAX_LINE} bytes: "
                                     "it was not written by latentmem.")
            yield line


@contextmanager
def _sentence(what: str) -> Iterator[None]:
    try:
        yield
    except LatentmemError:
        raise
    except _BROKEN as e:
        raise LatentmemError(f"{what} is damaged or not a latentmem archive ({str(e)[:120] or type(e).__name__}): "
                             "export it again.") from None


def add(archive: zipfile.ZipFile, members: dict[str, dict[str, Any]], name: str, source: IO[bytes], how: int) -> None:
    """Write a member, and note in `members` what the manifest says of it."""
    info = zipfile.ZipInfo(name)  # dated 1980: the same bank gives the same bytes
    info.compress_type = how
    info.external_attr = 0o644 << 16
    info.file_size = source.seek(0, os.SEEK_END) or source.tell()  # decides between zip and zip64
    source.seek(0)
    checksum = sha256()
    with archive.open(info, "w") as member:
        while chunk := source.read(CHUNK):
            checksum.update(chunk)
            member.write(chunk)
    members[name] = {"sha256": checksum.hexdigest(), "bytes": info.file_size}


def _members(archive: zipfile.ZipFile, size: int, most: int, most_bytes: int) -> Members:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    _check_names(infos, names)
    packed, total = sum(i.compress_size for i in infos), sum(i.file_size for i in infos)
    if (there := sum(bool(ARRAYS.fullmatch(name)) for name in names)) > most:
        raise LatentmemError(f"The archive holds {there} memories, more than the {most} that there is room for: "
                             "export fewer by naming their ids.")
    if most_bytes < MAX_TOTAL and total > most_bytes:
        raise LatentmemError(f"The archive unpacks to {total >> 20} MiB, more than the {most_bytes >> 20} MiB allowed here: "
                             "export fewer memories.")
    # Members that overlap share packed bytes: that is how the worst zip bombs are made.
    if packed > size or total > MAX_TOTAL or total > max(RATIO_FLOOR, MAX_RATIO * packed):
        raise LatentmemError(f"The archive of {size} bytes would unpack to {total} bytes, which no exported bank does: "
                             "it was not unpacked.")
    manifest = from_json(Manifest, read(archive, MANIFEST, MANIFEST), MANIFEST)
    if manifest.format != FORMAT:
        raise LatentmemError(f"The archive is a {manifest.format[:40]!r}, not a {FORMAT}: choose an exported bank.")
    if manifest.version > VERSION:
        raise LatentmemError(f"The archive has version {manifest.version}, this latentmem reads {VERSION}: update it.")
    unlisted = sorted(set(names) - set(manifest.members) - {MANIFEST})
    if unlisted:
        raise LatentmemError(f"The archive holds {unlisted[0]}, which its manifest does not list: export it again.")
    for name in (MEMORIES, EVENTS):
        checksum = sha256()
        for line in lines(archive, name):
            checksum.update(line)
        if checksum.hexdigest() != manifest.members[name].sha256:
            raise LatentmemError(f"{name} in the archive does not match its checksum: export it again.")
    return {name: manifest.members[name] for name in names if name != MANIFEST}


def _check_names(infos: list[zipfile.ZipInfo], names: list[str]) -> None:
    if len(infos) > MAX_MEMORIES + 3:
        raise LatentmemError(f"The archive holds {len(infos)} members, more than {MAX_MEMORIES} memories: "
                             "export the bank in parts.")
    seen: set[str] = set()
    limits = {MANIFEST: MAX_MANIFEST, MEMORIES: MAX_TOTAL, EVENTS: MAX_TOTAL}
    for info, name in zip(infos, names, strict=True):
        # zipfile cuts names at a NUL and changes separators: only a name that is what it says may pass.
        if info.orig_filename != name or (name not in limits and not ARRAYS.fullmatch(name)):
            raise LatentmemError(f"The archive holds {info.orig_filename[:60]!r}, which does not belong in a bank: "
                                 "export the bank again and do not repack it.")
        if name in seen:
            raise LatentmemError(f"The archive holds {name} twice: export the bank again.")
        seen.add(name)
        if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise LatentmemError(f"{name} in the archive is encrypted or packed in an unknown way: export it again.")
        if info.file_size > limits.get(name, MAX_ARRAYS):
            raise LatentmemError(f"{name} in the archive unpacks to {info.file_size} bytes, which is too much: "
                                 "it was not unpacked.")
    missing = sorted(set(limits) - seen)
    if missing:
        raise LatentmemError(f"The archive has no {missing[0]}: choose a bank exported by latentmem.")
