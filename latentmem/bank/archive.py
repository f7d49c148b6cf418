"""The shared form of a bank: a zip of manifest.json, memories.jsonl, events.jsonl and one
safetensors file per memory.

An archive comes from strangers. The container has limits of size and number, every line is parsed
by a checker, every array is compared with its checksum and checked for its numbers, and every
memory must hash to its id.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from io import BytesIO
from itertools import islice
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, cast

import numpy as np

from ..files import replacing
from ..records import MOST_TOKENS, Event, LatentmemError, Memory, Step, Trace, from_json, to_json
from . import serialization, signing
from .database import Store, check_event
from .upgrade import LOCAL_KINDS

# ---------- The container: which members a zip may have, their sizes and checksums; writing one.

FORMAT, VERSION = "latentmem-bank", 1
MANIFEST, MEMORIES, EVENTS = "manifest.json", "memories.jsonl", "events.jsonl"
ARRAYS = re.compile(r"memories/m[0-9a-f]{16}\.safetensors")

MAX_MEMORIES = 100_000
MAX_DIRECTORY = 10 << 20  # bytes of the zip's table of contents, about 100 a member
MAX_MANIFEST = 32 << 20
MANIFEST_OF = 1000  # bytes of the manifest for a member, of which it takes 200
MAX_LINE = 16 << 20  # the words of one memory
MAX_ARRAYS = 64 << 20  # the numbers of one memory
MAX_TOTAL = 16 << 30
MAX_RATIO = 30  # unpacked to packed: deflate reaches 1000 on zeros, a bank stays below 10
RATIO_FLOOR = 64 << 20  # below this much unpacked no ratio is dangerous
CHUNK = 1 << 20
ENTRY = b"PK\x01\x02"  # begins each entry of the zip's table of contents

# What zipfile, zlib and the operating system raise about a broken archive.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    IndexError,
    KeyError,
    OverflowError,
    ValueError,
)


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
    """A file for zipfile that refuses a long table of contents: zipfile reads it in one piece and
    makes an object of every entry before anyone can count them."""

    def __init__(self, file: IO[bytes], most: int) -> None:
        self._file, self._most = file, most
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY:
            raise LatentmemError(
                f"The archive lists more than the {MAX_MEMORIES} memories one may hold: "
                "export the bank in parts."
            )
        if (there := data.count(ENTRY) - 3) > self._most:  # beside the three that are no memory
            raise LatentmemError(
                f"The archive holds {there} memories, more than the {self._most} that there is "
                "room for: export fewer by naming their ids."
            )
        return data


@contextmanager
def container(
    source: str | Path | IO[bytes], most: int = MAX_MEMORIES
) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """A zip of at most so many memories, and its size in bytes. Raises LatentmemError."""
    with ExitStack() as stack:
        try:
            file = (
                stack.enter_context(open(source, "rb"))
                if isinstance(source, (str, Path))
                else source
            )
        except OSError as e:
            raise LatentmemError(
                f"{source} cannot be read ({e.strerror or e}): choose an exported bank."
            ) from None
        with _sentence("The archive"):
            archive = zipfile.ZipFile(cast("IO[bytes]", _Bounded(file, most)))
            size = file.seek(0, io.SEEK_END)
        yield archive, size


def read(archive: zipfile.ZipFile, name: str, what: str) -> bytes:
    """A whole member, whose size `opened` has checked. Raises LatentmemError."""
    with _sentence(what), archive.open(name) as member:
        return b"".join(iter(lambda: member.read(CHUNK), b""))


def lines(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """The lines of a JSONL member, each within MAX_LINE. Raises LatentmemError."""
    with _sentence(f"{name} in the archive"), archive.open(name) as packed:
        member = io.BufferedReader(cast("io.RawIOBase", packed), CHUNK)
        while line := member.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise LatentmemError(
                    f"{name} in the archive has a line of more than {MAX_LINE} bytes: "
                    "it was not written by latentmem."
                )
            yield line


@contextmanager
def _sentence(what: str) -> Iterator[None]:
    try:
        yield
    except LatentmemError:
        raise
    except _BROKEN as e:
        raise LatentmemError(
            f"{what} is damaged or not a latentmem archive ({str(e)[:120] or type(e).__name__}): "
            "export it again."
        ) from None


def add(
    archive: zipfile.ZipFile,
    members: dict[str, Member],
    name: str,
    source: IO[bytes],
    how: int,
) -> None:
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
    members[name] = Member(checksum.hexdigest(), info.file_size)


def _members(archive: zipfile.ZipFile, size: int, most_bytes: int) -> Members:
    """The members as the manifest lists them, all checked but the arrays. Raises LatentmemError."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    _check_names(infos, names)
    packed, total = sum(i.compress_size for i in infos), sum(i.file_size for i in infos)
    if most_bytes < MAX_TOTAL and total > most_bytes:
        raise LatentmemError(
            f"The archive unpacks to {total >> 20} MiB, more than the {most_bytes >> 20} MiB "
            "allowed here: export fewer memories."
        )
    # Members that overlap share packed bytes: that is how the worst zip bombs are made.
    if packed > size or total > MAX_TOTAL or total > max(RATIO_FLOOR, MAX_RATIO * packed):
        raise LatentmemError(
            f"The archive of {size} bytes would unpack to {total} bytes, which no exported bank "
            "does: it was not unpacked."
        )
    manifest = from_json(Manifest, read(archive, MANIFEST, MANIFEST), MANIFEST)
    if manifest.format != FORMAT:
        raise LatentmemError(
            f"The archive is a {manifest.format[:40]!r}, not a {FORMAT}: choose an exported bank."
        )
    if manifest.version > VERSION:
        raise LatentmemError(
            f"The archive has version {manifest.version}, this latentmem reads {VERSION}: update "
            "it."
        )
    unlisted = sorted(set(names) - set(manifest.members) - {MANIFEST})
    if unlisted:
        raise LatentmemError(
            f"The archive holds {unlisted[0]}, which its manifest does not list: export it again."
        )
    memories = min(manifest.memories, len(names))
    for name, listed in ((MEMORIES, memories), (EVENTS, manifest.events)):
        checksum, there = _sum_and_lines(archive, name)
        if there > listed:
            raise LatentmemError(
                f"{name} in the archive has {there} lines, more than the {listed} that there are: "
                "export it again."
            )
        if checksum != manifest.members[name].sha256:
            raise LatentmemError(
                f"{name} in the archive does not match its checksum: export it again."
            )
    return {name: manifest.members[name] for name in names if name != MANIFEST}


def _sum_and_lines(archive: zipfile.ZipFile, name: str) -> tuple[str, int]:
    """The checksum and the number of lines of a member, without a look at each of them."""
    checksum, there, last = sha256(), 0, b"\n"
    with _sentence(f"{name} in the archive"), archive.open(name) as member:
        while chunk := member.read(CHUNK):
            checksum.update(chunk)
            there, last = there + chunk.count(b"\n"), chunk[-1:]
    return checksum.hexdigest(), there + (last != b"\n")


def _check_names(infos: list[zipfile.ZipInfo], names: list[str]) -> None:
    seen: set[str] = set()
    manifest = min(MAX_MANIFEST, MANIFEST_OF * (64 + len(infos)))
    limits = {MANIFEST: manifest, MEMORIES: MAX_TOTAL, EVENTS: MAX_TOTAL}
    for info, name in zip(infos, names, strict=True):
        # zipfile cuts names at a NUL and changes separators: only a name that is what it says may
        # pass.
        if info.orig_filename != name or (name not in limits and not ARRAYS.fullmatch(name)):
            raise LatentmemError(
                f"The archive holds {info.orig_filename[:60]!r}, which does not belong in a bank: "
                "export the bank again and do not repack it."
            )
        if name in seen:
            raise LatentmemError(f"The archive holds {name} twice: export the bank again.")
        seen.add(name)
        if info.flag_bits & 1 or info.compress_type not in (
            zipfile.ZIP_STORED,
            zipfile.ZIP_DEFLATED,
        ):
            raise LatentmemError(
                f"{name} in the archive is encrypted or packed in an unknown way: export it again."
            )
        if info.file_size > limits.get(name, MAX_ARRAYS):
            raise LatentmemError(
                f"{name} in the archive unpacks to {info.file_size} bytes, which is too much: "
                "it was not unpacked."
            )
    missing = sorted(set(limits) - seen)
    if missing:
        raise LatentmemError(
            f"The archive has no {missing[0]}: choose a bank exported by latentmem."
        )


# sha256 of the manifest of examples/bank.zip, which holds those of all its members.
SHIPPED = "637dec749ec47402b07f77fa61465ffdef03fb882ce2114aa8b1738d6db9f37a"
SPOOL = 32 << 20  # bytes of words kept in memory while the arrays are written
BATCH = 64  # memories a transaction
EVENT_BATCH = 2000
MAX_BAD = 1000  # lines that are not what they should be; the rest is not read
SECONDS = 30  # for an import, and one for each packed MiB and 100 members; most take a tenth
ID = re.compile("m[0-9a-f]{16}")
TENSORS = {"soft_prompt": "<f4"} | {
    f"key.{kind}": dtype for kind, dtype in serialization.KEY_DTYPE.items()
}


@dataclass(frozen=True, slots=True)
class ExportReport:
    memories: int
    events: int
    # One sentence for each memory that is damaged and left out, or that lacks damaged events.
    refused: list[str]


@dataclass(frozen=True, slots=True)
class ImportReport:
    added: int
    skipped: int  # memories that were already there
    events: int  # events that were not yet there
    refused: list[str]  # one sentence for each memory or group of events that was not taken
    author: str = ""  # the key that signed the archive, "" without a signature
    probation: bool = False  # whether what was added is on probation

    @property
    def standing(self) -> str:
        """One sentence on what was added, '' if nothing is to be said."""
        if not (self.probation and self.added):
            return ""
        return (
            "What was added is on probation: it answers once it has agreed with the model alone a "
            "few times."
        )


@dataclass(frozen=True)
class _Line:
    """One line of memories.jsonl."""

    id: str
    record: serialization.Record
    traces: tuple[Trace, ...]
    steps: tuple[Step, ...]
    digest: str = ""  # archives of an older latentmem have none


# ------------------------------------------------------------------ export
def export_zip(
    store: Store,
    target: str | Path | IO[bytes],
    ids: list[str] | None = None,
    lacking: Sequence[str] = (),
    key: Path | None = None,
) -> ExportReport:
    """Write the memories (all, or those in `ids`) and their events, but no receipts. The same bank
    gives the same bytes.
    `lacking`: sentences about memories that belong in the archive but are not in this bank. `key`:
    the SSH private key that signs it.

    A file at `target` may be the last good copy: only an archive that lacks nothing replaces it.
    Raises LatentmemError when one would, when the file is not an archive, and when nothing can be
    written.
    """
    chosen = sorted(set(ids)) if ids is not None else store.ids()
    if len(chosen) > MAX_MEMORIES:
        raise LatentmemError(
            f"{len(chosen)} memories are more than one archive holds ({MAX_MEMORIES}): "
            "export them in parts by naming their ids."
        )
    try:
        if not isinstance(target, (str, Path)):
            return _write(store, target, chosen, lacking, key)
        path = Path(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        if there and not zipfile.is_zipfile(path):
            raise LatentmemError(
                f"{path} exists and is not an archive: write to another name, such as "
                f"{path.stem}.zip."
            )
        with replacing(path) as part:
            with part.open("wb") as f:
                report = _write(store, f, chosen, lacking, key)
            if there and (report.refused or not report.memories):
                why = (
                    f"lacks {len(report.refused)} memories or events of them ({report.refused[0]})"
                    if report.refused
                    else "holds no memory"
                )
                raise LatentmemError(
                    f"The export {why}, so {path} was left as it is: write to another name."
                )
        return report
    except OSError as e:
        raise LatentmemError(
            f"The archive could not be written to {target} ({e.strerror or e}): "
            "choose another place or free some space."
        ) from None


def _write(
    store: Store, file: IO[bytes], ids: list[str], lacking: Sequence[str], key: Path | None
) -> ExportReport:
    members: dict[str, Member] = {}
    refused = list(lacking)
    memories = events = 0
    spool = partial(SpooledTemporaryFile, max_size=SPOOL)
    with zipfile.ZipFile(file, "w") as archive, spool() as memory_lines, spool() as event_lines:
        for ident in ids:
            try:
                packed = store.packed(ident)
                arrays = _arrays(packed)
                words = b",".join(
                    b'"%s":%s' % (p.encode(), packed.parts[p])
                    for p in ("record", "traces", "steps")
                )
                line = b'{"id":"%s","digest":"%s",%s}\n' % (
                    *(ident.encode(), packed.digest.encode()),
                    words,
                )
                # `import` would refuse the whole archive.
                if len(line) > MAX_LINE or len(arrays) > MAX_ARRAYS:
                    raise LatentmemError(
                        f"Memory {ident} is too large for an archive ({len(line) + len(arrays)} "
                        "bytes)."
                    )
            except LatentmemError as e:
                refused.append(str(e))
                continue
            # Stored, not deflated: weights do not compress.
            add(
                archive,
                members,
                f"memories/{ident}.safetensors",
                BytesIO(arrays),
                zipfile.ZIP_STORED,
            )
            memory_lines.write(line)
            memories += 1
            whole, damaged = _events_of(store, ident)
            refused += [damaged] if damaged else []
            for event in sorted(whole, key=lambda e: e.id):
                if event.kind in LOCAL_KINDS:
                    continue
                event_lines.write(to_json(event).encode() + b"\n")
                events += 1
        add(archive, members, MEMORIES, memory_lines, zipfile.ZIP_DEFLATED)
        add(archive, members, EVENTS, event_lines, zipfile.ZIP_DEFLATED)
        manifest = json.dumps(
            asdict(Manifest(FORMAT, VERSION, memories, events, members)), indent=1
        )
        add(archive, {}, MANIFEST, BytesIO(manifest.encode()), zipfile.ZIP_DEFLATED)
        archive.comment = signing.sign(manifest.encode(), key) if key else b""
    return ExportReport(memories, events, refused)


def _events_of(store: Store, ident: str) -> tuple[list[Event], str]:
    """The whole events of a memory, and a sentence if some are damaged: an archive that lacks
    events, such as a quarantine, must tell."""
    try:
        with store.reading() as db:
            rows = db.execute("SELECT * FROM events WHERE memory_id = ?", (ident,)).fetchall()
    except LatentmemError as e:  # a damaged page
        return [], f"The events of memory {ident} are left out: {e}"
    whole = [serialization.event_of(row) for row in rows if serialization.event_is_whole(row)]
    lost = len(rows) - len(whole)
    return whole, (
        f"{lost} damaged events of memory {ident} are left out: run `latentmem verify`."
        if lost
        else ""
    )


def _arrays(packed: serialization.Packed) -> bytes:
    named = serialization.load_arrays(packed.parts["soft_prompt"], packed.id)
    for kind, data in packed.keys.items():
        named[f"key.{kind}"] = serialization.load_arrays(data, packed.id)["key"]
    return serialization.save_arrays(named)


# ------------------------------------------------------------------ import
def import_zip(
    store: Store,
    source: str | Path | IO[bytes],
    *,
    model: str | None = None,
    trusted: bool = False,
    most: int = MAX_MEMORIES,
    most_bytes: int = MAX_TOTAL,
) -> ImportReport:
    """Add the memories and events of the archive that the bank lacks. A memory is added whole or
    not at all. One that is damaged, or that another model than `model` made, is refused with a
    sentence; the others are added, as imported ones unless they are `trusted` or latentmem's own.
    Whether a memory that was here is in quarantine stays as it is, unless the archive is `trusted`.
    Reading ends after MAX_BAD bad lines, and when its time is over.

    Raises LatentmemError, before anything is stored, when the archive as a whole is not to be
    trusted, or holds more than `most` memories or `most_bytes` unpacked.
    """
    with container(source, most) as (archive, size):
        members = _members(archive, size, most_bytes)
        refused = _Refusals(SECONDS + (size >> 20) + len(members) // 100)
        manifest = read(archive, MANIFEST, MANIFEST)
        author = signing.author(manifest, archive.comment)
        trusted = trusted or sha256(manifest).hexdigest() == SHIPPED
        added = skipped = 0
        memories = _memories(archive, members, model, refused)
        while batch := list(islice(memories, BATCH)):
            count, others = store.add(batch, imported=not trusted)
            added, skipped = added + count, skipped + len(batch) - count
            refused.sentences += [_differs(store, memory) for _, memory in others]
        new_events, events = 0, _events(archive, refused)
        decided = set() if trusted else store.decided()
        while some := list(islice(events, EVENT_BATCH)):
            count, sentences = store.add_events(some, decided)
            new_events += count
            for sentence in sentences:
                refused.sentences.append(sentence)
        return ImportReport(added, skipped, new_events, refused.sentences, author, not trusted)


def _differs(store: Store, memory: Memory) -> str:
    try:
        return conflict(serialization.unpack(store.packed(memory.id)), memory)
    except LatentmemError as e:  # the one in the bank is damaged
        return str(e)


def conflict(here: Memory, other: Memory) -> str:
    """A sentence about a memory that differs from the one with its id in the bank."""
    ours, theirs = serialization.content(here), serialization.content(other)
    differ = [name for name in ours | theirs if ours.get(name) != theirs.get(name)]
    return (
        f"Memory {here.id} differs from the one with this id in the bank in {', '.join(differ)} "
        f"(digest {serialization.digest_of(other)[:16]}, in the bank "
        f"{serialization.digest_of(here)[:16]}): the bank's stays as it is."
    )


class _Refusals:
    """What was not taken, and when to stop reading: a hostile archive may have millions of bad
    lines, or of lines that are slow to check."""

    def __init__(self, seconds: float) -> None:
        self.sentences: list[str] = []
        self._bad, self._seconds, self._due = 0, seconds, time.monotonic() + seconds

    def bad(self, error: LatentmemError) -> None:
        """A line is not what it should be."""
        self._bad += 1
        self.sentences.append(str(error))

    def enough(self, name: str, line: int) -> bool:
        """Whether a member is not read from this line on."""
        why = f"{self._bad} lines were refused" if self._bad >= MAX_BAD else ""
        if time.monotonic() > self._due:
            why = f"{self._seconds} seconds are over"
        if why:
            self.sentences.append(f"{name} was read up to line {line}, since {why}.")
        return bool(why)


def _memories(
    archive: zipfile.ZipFile, members: Members, model: str | None, refused: _Refusals
) -> Iterator[tuple[serialization.Packed, Memory]]:
    for number, line in enumerate(lines(archive, MEMORIES), 1):
        if refused.enough(MEMORIES, number):
            return
        try:
            words = from_json(_Line, line, f"Line {number} of {MEMORIES}")
            if not ID.fullmatch(words.id):
                raise LatentmemError(
                    f"Line {number} of {MEMORIES} has {words.id[:40]!r} for an id: export it again."
                )
            if model is not None and words.record.model != model:
                refused.sentences.append(
                    f"Memory {words.id} was made by {words.record.model_name[:60]!r} "
                    f"({words.record.model[:16]!r}): use it with that model."
                )
                continue
            yield _memory(words, _arrays_of(archive, members, words.id))
        except LatentmemError as e:
            refused.bad(e)


def _arrays_of(archive: zipfile.ZipFile, members: Members, ident: str) -> dict[str, np.ndarray]:
    name = f"memories/{ident}.safetensors"
    if name not in members:
        raise LatentmemError(f"Memory {ident} has no arrays in the archive: export it again.")
    data = read(archive, name, f"Memory {ident}")
    if serialization.sha256(data) != members[name].sha256:
        raise LatentmemError(
            f"Memory {ident}: its arrays do not match their checksum: export it again."
        )
    arrays = serialization.load_arrays(data, f"Memory {ident}: its arrays")
    for tensor, array in arrays.items():
        if array.dtype != np.dtype(TENSORS.get(tensor, object)):
            raise LatentmemError(
                f"Memory {ident}: an array {tensor[:40]!r} of {array.dtype} does not belong there: "
                "export it again."
            )
    return arrays


def _memory(words: _Line, arrays: dict[str, np.ndarray]) -> tuple[serialization.Packed, Memory]:
    """One memory, checked as a whole: its words, its arrays, its id."""
    r, prompt = words.record, arrays.pop("soft_prompt", None)
    if prompt is None:
        raise LatentmemError(f"Memory {words.id} has no soft prompt: export it again.")
    if (
        prompt.ndim and len(prompt) > MOST_TOKENS
    ):  # it would be read again and again, by everybody's model
        raise LatentmemError(
            f"Memory {words.id} has {len(prompt)} virtual tokens, more than the {MOST_TOKENS} "
            "allowed."
        )
    memory = Memory(
        problem=r.problem,
        soft_prompt=prompt,
        model=r.model,
        model_name=r.model_name,
        keys={
            tensor.removeprefix("key."): array.astype(np.float32)
            for tensor, array in arrays.items()
        },
        vote=r.vote,
        traces=words.traces,
        steps=words.steps,
        best_step=r.best_step,
        settings=r.settings,
        created=r.created,
    )
    try:
        packed = serialization.pack(memory)
    except LatentmemError as e:
        raise LatentmemError(f"Memory {words.id}: {e}") from None
    if packed.id != words.id:
        raise LatentmemError(
            f"Memory {words.id} is not what its id says (its content hashes to {packed.id}): "
            "it was changed or damaged, export it again."
        )
    if words.digest not in ("", packed.digest):
        raise LatentmemError(
            f"Memory {words.id} is not what its digest {words.digest[:16]!r} says: it was changed "
            "or damaged, export it again."
        )
    return packed, memory


def _events(archive: zipfile.ZipFile, refused: _Refusals) -> Iterator[Event]:
    for number, line in enumerate(lines(archive, EVENTS), 1):
        if refused.enough(EVENTS, number):
            return
        try:
            event = from_json(Event, line, f"Line {number} of {EVENTS}")
            if not event.id or not event.created:
                raise LatentmemError(
                    f"Line {number} of {EVENTS} has no id or no time: export the bank again."
                )
            check_event(event)
            if event.kind in LOCAL_KINDS:
                raise LatentmemError(
                    f"Line {number} of {EVENTS} says that a memory is {event.kind}, which only the "
                    "bank that it comes to can say."
                )
            yield event
        except LatentmemError as e:
            refused.bad(e)
