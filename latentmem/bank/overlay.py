"""A visitor's own bank over a shared one: reads see both, writes go to the own one."""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..records import (
    MOST_TOKENS,
    Counters,
    Event,
    Hit,
    KeyKind,
    LatentmemError,
    Memory,
    MemoryInfo,
    Receipt,
)
from .archive import ExportReport, ImportReport, conflict
from .bank import Bank
from .database import stamped
from .interface import MemoryBank
from .key_index import OtherKeys
from .serialization import iso, now, stamp

if TYPE_CHECKING:
    import numpy as np

# ---------- Events on shared memories, kept in RAM beside the shared bank.

MOST_EVENTS = 2000
STATES = ("quarantined", "released")
# Kinds of events that answers leave; the other kinds come from a person.
USES = {f.name for f in fields(Counters)}


class PrivateEvents:
    """At most MOST_EVENTS, oldest first. Thread-safe."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def of(self, memory_id: str | None = None) -> list[Event]:
        """Those on one memory, or all."""
        with self._lock:
            return [e for e in self._events if memory_id in (None, e.memory_id)]

    def add(self, events: Sequence[Event]) -> list[Event]:
        """Record new events with ids and times, all or none. Raises LatentmemError."""
        made = stamped(events)
        with self._lock:
            self._events = thinned([*self._events, *made])
        return made

    def reset(self, events: list[Event]) -> None:
        """Restore what `of` returned."""
        with self._lock:
            self._events = events

    @property
    def bytes(self) -> int:
        return sum(len(str(e.detail)) for e in self.of())


def thinned(events: list[Event]) -> list[Event]:
    """At most MOST_EVENTS of these. The oldest events of answers go first, then events that a later
    one overrides, so that more answers never end a quarantine. Raises LatentmemError when a
    person's own events are too many."""
    over = len(events) - MOST_EVENTS
    if over <= 0:
        return events
    newest = {_about(e): i for i, e in enumerate(events)}
    uses = [i for i, e in enumerate(events) if e.kind in USES]
    gone = set(
        [
            *uses,
            *(i for i, e in enumerate(events) if e.kind not in USES and newest[_about(e)] != i),
        ][:over]
    )
    if len(gone) < over:
        raise LatentmemError(
            f"{MOST_EVENTS} notes and changes of shared memories are as many as this shared app "
            "keeps for you: run latentmem on your own computer for more."
        )
    return [e for i, e in enumerate(events) if i not in gone]


def _about(event: Event) -> tuple[str, str, str]:
    """What an event is about. Of events about the same tag, or about quarantine, the newest
    decides; all others count one by one."""
    if event.kind in STATES:
        return event.memory_id, "state", ""
    return (
        event.memory_id,
        event.kind,
        str(event.detail.get("tag")) if event.kind == "tag" else event.id,
    )


def weight(events: Iterable[Event]) -> int:
    """Bytes of new notes and tags. Events of answers, and removals, count as none."""
    return sum(
        len(str(e.detail))
        for e in events
        if e.kind in ("note", "tag")
        and "removes" not in e.detail
        and e.detail.get("on") is not False
    )


MOST_BYTES = 64 << 20  # bytes of an uploaded archive, unpacked; twenty memories take 4 MiB
# Bytes of one visitor's data: a shared app may hold hundreds of overlays in RAM.
MOST_OWN = 16 << 20
MOST_RECEIPTS = 100  # in one overlay


class Overlay(MemoryBank):
    """A visitor's bank in a shared app: `curated`, which is never written to, and `own`, in RAM.

    `own` holds at most `most` memories; those from an archive have at most `longest` virtual
    tokens. Events on shared memories are kept beside `curated` and end with the overlay.
    """

    read_only = False

    def __init__(
        self,
        curated: MemoryBank,
        most: int = 20,
        longest: int = MOST_TOKENS,
        most_bytes: int = MOST_OWN,
    ) -> None:
        self.curated, self.own, self._beside = (
            curated,
            Bank(":memory:", most_receipts=MOST_RECEIPTS),
            PrivateEvents(),
        )
        self.path = curated.path
        self.most, self.longest, self.most_bytes = most, longest, most_bytes

    def close(self) -> None:
        """Forget the own memories. The shared bank stays open."""
        self.own.close()

    # -------------------------------------------------------------- memories
    def put(self, memory: Memory) -> str:
        """Keep a memory in the own bank and return its id. Raises LatentmemError when it is
        full."""
        if memory.id in self:
            return memory.id
        self.check_room(1)
        self._check_bytes(memory.soft_prompt.nbytes)
        return self.own.put(memory)

    @property
    def private(self) -> int:
        """Number of own memories."""
        return len(self.own)

    @property
    def untouched(self) -> bool:
        """Whether there is no own memory and no event on a shared one."""
        return not (len(self.own) or self._beside.of())

    def check_room(self, wanted: int = 1) -> None:
        """Raises LatentmemError when the own bank has no room for that many more memories."""
        if len(self.own) + wanted > self.most:
            raise LatentmemError(
                f"{len(self.own) + wanted} memories are more than the {self.most} of your own "
                "that this shared app keeps for you: delete some, or run latentmem on your own "
                "computer."
            )

    def _check_bytes(self, more: int) -> None:
        if self.own.stats()["used"] + self._beside.bytes + more > self.most_bytes:
            raise LatentmemError(
                f"Your own data here would take more than the {self.most_bytes >> 20} MiB that "
                "this shared app keeps for you: delete some memories, or run latentmem on your "
                "own computer."
            )

    def owns(self, memory_id: str) -> bool:
        """Whether a memory is an own one, which may be deleted."""
        return memory_id in self.own

    def get(self, memory_id: str) -> Memory:
        return self._home(memory_id).get(memory_id)

    def delete(self, memory_id: str) -> None:
        """Delete an own memory. Raises LatentmemError for a shared one."""
        home = self._home(memory_id)
        if home is not self.own:
            raise LatentmemError(
                f"Memory {memory_id} belongs to the shared bank, which only its keeper can change: "
                "delete memories that you made yourself."
            )
        home.delete(memory_id)

    def __contains__(self, memory_id: object) -> bool:
        return memory_id in self.own or memory_id in self.curated

    def __len__(self) -> int:
        return len(self.own) + len(self.curated)

    def info(self, memory_id: str) -> MemoryInfo:
        return self._seen(self._home(memory_id).info(memory_id))

    def infos(
        self,
        *,
        source: str | None = None,
        model: str | None = None,
        quarantined: bool | None = None,
        limit: int | None = None,
        text: str | None = None,
    ) -> list[MemoryInfo]:
        """Rows of both banks, newest first."""
        rows = [
            self._seen(info)
            for bank in (self.own, self.curated)
            for info in bank.infos(source=source, model=model, text=text)
        ]
        rows = [i for i in rows if quarantined is None or i.quarantined == quarantined]
        rows.sort(key=lambda i: i.created, reverse=True)
        return rows if limit is None else rows[: max(limit, 0)]

    def _seen(self, info: MemoryInfo) -> MemoryInfo:
        """A row with the events of this overlay added."""
        here = self._beside.of(info.id)
        if not here:
            return info
        kinds: list[str] = [e.kind for e in here]
        counters = Counters(
            **{
                f.name: getattr(info.counters, f.name) + kinds.count(f.name)
                for f in fields(Counters)
            }
        )
        state = next((k for k in reversed(kinds) if k in STATES), None)
        return replace(
            info,
            counters=counters,
            quarantined=info.quarantined if state is None else state == STATES[0],
        )

    def _home(self, memory_id: str) -> MemoryBank:
        """The bank that holds a memory, by its id or the beginning of its id. Raises
        LatentmemError."""
        for bank in (self.own, self.curated):
            if memory_id in bank:
                return bank
        found: list[tuple[MemoryBank, str]] = []
        for bank in (self.own, self.curated):
            try:
                found.append((bank, bank.info(memory_id).id))
            except LatentmemError as e:
                error = e
        if len(found) > 1:
            raise LatentmemError(
                f"{memory_id[:40]!r} begins the ids of several memories: "
                f"write {found[0][1]} or {found[1][1]}."
            )
        if not found:
            raise error
        return found[0][0]

    # -------------------------------------------------------------- search
    def search(
        self,
        key: np.ndarray,
        *,
        kind: KeyKind = "input",
        k: int = 1,
        model: str | None = None,
        source: str | None = None,
        exclude: Collection[str] = (),
        include_quarantined: bool = False,
    ) -> tuple[Hit, ...]:
        """The k most similar memories of both banks, best first, ties by id; rank and margin are
        those of the union."""
        shut = () if include_quarantined else self._quarantined()
        hits: list[Hit] = []
        other = None
        for bank in (self.own, self.curated):
            try:
                hits += bank.search(
                    key,
                    kind=kind,
                    k=k + 1,
                    model=model,
                    source=source,
                    exclude=[*exclude, *shut],
                    include_quarantined=include_quarantined,
                )
            except OtherKeys as e:  # in one bank; the other may have the right keys
                other = e
        if other and not hits:
            raise other
        hits.sort(key=lambda h: (-h.similarity, h.memory_id))
        after = [h.similarity for h in hits[1:]] + [None] * bool(hits)
        return tuple(
            replace(h, rank=i, margin=None if s is None else h.similarity - s)
            for i, (h, s) in enumerate(zip(hits, after, strict=True), 1)
        )[:k]

    def _quarantined(self) -> list[str]:
        """Shared memories that this visitor quarantined."""
        last = {e.memory_id: e.kind for e in self._beside.of() if e.kind in STATES}
        return [memory_id for memory_id, kind in last.items() if kind == STATES[0]]

    def keys(
        self, kind: KeyKind, *, model: str | None = None, include_quarantined: bool = False
    ) -> tuple[list[str], np.ndarray]:
        """All ids and their keys [n, d] float32: the shared ones, then the own; [0, 0] without
        any."""
        import numpy as np

        parts = [
            bank.keys(kind, model=model, include_quarantined=include_quarantined)
            for bank in (self.curated, self.own)
        ]
        parts = [(ids, keys) for ids, keys in parts if ids]
        if len({keys.shape[1] for _, keys in parts}) > 1:
            raise LatentmemError(
                f"The {kind} keys of your memories and of the shared ones have different lengths, "
                "so they cannot be compared: choose one model."
            )
        ids = [i for some, _ in parts for i in some]
        matrix = (
            np.concatenate([keys for _, keys in parts]) if parts else np.empty((0, 0), np.float32)
        )
        shut = set() if include_quarantined else set(self._quarantined())
        open_ = [row for row, i in enumerate(ids) if i not in shut]
        return [ids[row] for row in open_], matrix[open_] if shut else matrix

    # -------------------------------------------------------------- events
    def record(self, event: Event) -> Event:
        """Record an event; one on a shared memory stays in this overlay. Raises LatentmemError when
        there is no room for it."""
        self._check_words([event])
        if (home := self._home(event.memory_id)) is self.own:
            return home.record(event)
        return self._beside.add([self._shared(event)])[0]

    def record_all(self, events: Sequence[Event]) -> None:
        """Record several events, all or none."""
        self._check_words(events)
        mine: list[Event] = []
        shared: list[Event] = []
        for event in events:
            (mine if self._home(event.memory_id) is self.own else shared).append(event)
        before = self._beside.of()
        self._beside.add([self._shared(e) for e in shared])
        try:
            self.own.record_all(mine)
        except LatentmemError:
            self._beside.reset(before)
            raise

    def _shared(self, event: Event) -> Event:
        """The event with the whole id. Of tags the newest event decides, so a new one is dated
        after the last, even if another clock was ahead."""
        ident = self.curated.info(event.memory_id).id
        created = event.created
        if event.kind == "tag" and not created:
            last = self.events(ident, kind="tag", limit=1)
            if last and (at := stamp(last[0].created)) >= now():
                created = iso(at + 1)
        return replace(event, memory_id=ident, created=created)

    def _check_words(self, events: Sequence[Event]) -> None:
        if more := weight(events):
            self._check_bytes(more)

    def events(
        self,
        memory_id: str | None = None,
        *,
        kind: str | None = None,
        receipt_id: str | None = None,
        limit: int | None = None,
    ) -> list[Event]:
        """Events of both banks and of this overlay, newest first."""
        chosen: dict[str, Any] = {"kind": kind, "receipt_id": receipt_id, "limit": limit}
        if memory_id is None:
            stored, here = (
                [e for bank in (self.own, self.curated) for e in bank.events(**chosen)],
                self._beside.of(),
            )
        else:
            home = self._home(memory_id)
            stored, here = (
                home.events(memory_id, **chosen),
                self._beside.of(home.info(memory_id).id),
            )
        here = [e for e in here if kind in (None, e.kind) and receipt_id in (None, e.receipt_id)]
        return sorted([*stored, *here], key=lambda e: stamp(e.created), reverse=True)[:limit]

    def release(self, memory_id: str) -> Event:
        """Let search find a memory again. Raises LatentmemError for a shared one that its keeper
        quarantined."""
        home = self._home(memory_id)
        if home is self.curated and home.info(memory_id).quarantined:
            raise LatentmemError(
                f"Memory {memory_id} was put in quarantine by the keeper of the shared bank: "
                "only they can release it."
            )
        return self.record(Event(memory_id, "released"))

    # -------------------------------------------------------------- receipts
    def keep_receipt(self, receipt: Receipt, events: Sequence[Event] = ()) -> None:
        """Keep the receipt of an answer, and its events on the memories of both banks."""
        self.own.keep_receipt(receipt, [e for e in events if e.memory_id in self.own])
        for event in events:
            if event.memory_id not in self.own and event.memory_id in self.curated:
                self.record(event)

    def receipt(self, receipt_id: str) -> Receipt:
        """One of the visitor's receipts. Those of the shared bank show what its keeper asked, so
        nobody else sees them."""
        return self.own.receipt(receipt_id)

    def receipts(self, memory_id: str | None = None, *, limit: int | None = None) -> list[Receipt]:
        """The visitor's receipts, of all answers or of those that a memory took part in, newest
        first."""
        if memory_id is None:
            return self.own.receipts(limit=limit)
        here = {e.receipt_id for e in self.events(memory_id)}
        return [r for r in self.own.receipts() if r.id in here][
            : None if limit is None else max(limit, 0)
        ]

    def asked(self, memory_id: str) -> dict[str, str]:
        """Receipt id -> problem of the visitor's answers that a memory took part in, newest
        first."""
        return {r.id: r.problem.text for r in self.receipts(memory_id)}

    def forget(self, receipt_ids: Collection[str] | None = None) -> int:
        """Delete these receipts of the visitor, or all; returns how many."""
        return self.own.forget(receipt_ids)

    # -------------------------------------------------------------- has anything changed
    def stamp(self) -> Hashable:
        """Changes whenever anything is written to either bank or recorded here."""
        return self.curated.stamp(), self.own.stamp(), self._newest()

    def memories_stamp(self) -> Hashable:
        """Changes when a memory of either bank is added, deleted, quarantined or released."""
        return self.curated.memories_stamp(), self.own.memories_stamp(), self._newest()

    def _newest(self) -> str:
        newest = self.events(limit=1)
        return newest[0].id if newest else ""

    def soft_prompts(self) -> Iterator[tuple[str, np.ndarray]]:
        """(memory id, soft prompt [virtual tokens, hidden] float32): the shared ones, then the
        own."""
        yield from self.curated.soft_prompts()
        yield from self.own.soft_prompts()

    # -------------------------------------------------------------- sharing
    def export_zip(
        self, target: str | Path | IO[bytes], ids: Collection[str] | None = None
    ) -> ExportReport:
        """Write memories as a zip: those named, else all own ones. Raises LatentmemError without
        any."""
        chosen = [i.id for i in self.own.infos()] if ids is None else [self.info(i).id for i in ids]
        if not chosen:
            raise LatentmemError("You have no memory of your own here yet: distil one first.")
        shared = [i for i in chosen if i not in self.own]
        if not shared:
            return self.own.export_zip(target, chosen)
        with Bank(":memory:") as both:
            lacking: list[str] = []
            for bank, some in (
                (self.curated, shared),
                (self.own, [i for i in chosen if i in self.own]),
            ):
                archive, left_out = _copied(bank, some)
                lacking += [*left_out, *both.import_zip(archive).refused]
            return both.export_zip(target, lacking=lacking)

    def import_zip(
        self, source: str | Path | IO[bytes], *, model: str | None = None
    ) -> ImportReport:
        """Add the memories of an exported bank that are in neither bank: all of them, or none when
        there is not room for all."""
        with Bank(":memory:") as read:
            report = read.import_zip(
                source, model=model, most=self.most + len(self), most_bytes=MOST_BYTES
            )
            known = [i for i in read.infos() if i.id in self]
            infos = [i for i in read.infos() if i.id not in self]
            fresh = [i.id for i in infos if i.virtual_tokens <= self.longest]
            refused = [
                f"Memory {i.id} has {i.virtual_tokens} virtual tokens, more than the "
                f"{self.longest} that this shared app allows."
                for i in infos
                if i.virtual_tokens > self.longest
            ]
            refused += [
                conflict(self.get(i.id), read.get(i.id))
                for i in known
                if self.info(i.id).digest != i.digest
            ]
            self.check_room(len(fresh))
            archive, left_out = _copied(read, fresh)
            if fresh:
                self._check_bytes(archive.getbuffer().nbytes)
            taken = self.own.import_zip(archive)
        return replace(
            taken,
            author=report.author,
            skipped=report.added + report.skipped - len(infos),
            refused=[*report.refused, *refused, *left_out, *taken.refused],
        )

    def export_peft(
        self, memory_id: str, folder: str | Path, *, base_model: str | None = None
    ) -> None:
        """Write the soft prompt as a PEFT adapter."""
        self._home(memory_id).export_peft(memory_id, folder, base_model=base_model)

    def stats(self) -> dict[str, Any]:
        """Those of the shared bank, with the memories of both counted, and the own ones by
        themselves."""
        return self.curated.stats() | {
            "memories": len(self),
            "own": len(self.own),
            "read_only": False,
        }


def _copied(bank: MemoryBank, ids: Iterable[str]) -> tuple[BytesIO, list[str]]:
    """Some memories of a bank and their events as an archive, and a sentence for each that is not
    in it."""
    archive = BytesIO()
    report = bank.export_zip(archive, list(ids))
    archive.seek(0)
    return archive, report.refused
