"""Events on the memories of a bank that is only read: kept in memory, beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import fields

from .bank_store import stamped
from .records import Counters, Event, LatentmemError

MOST_EVENTS = 2000
STATES = ("quarantined", "released")
USES = {f.name for f in fields(Counters)}  # events that answers leave behind; the others are a person's


class Beside:
    """At most MOST_EVENTS, oldest first. Thread-safe."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def of(self, memory_id: str | None = None) -> list[Event]:
        """Those on one memory, or all."""
        with self._lock:
            return [e for e in self._events if memory_id in (None, e.memory_id)]

    def add(self, events: Sequence[Event]) -> list[Event]:
        """Take down events that just happened, with ids and times; all or none. Raises LatentmemError."""
        made = stamped(events)
        with self._lock:
            self._events = thinned([*self._events, *made])
        return made

    def reset(self, events: list[Event]) -> None:
        """Go back to what `of` said."""
        with self._lock:
            self._events = events

    @property
    def bytes(self) -> int:
        return sum(len(str(e.detail)) for e in self.of())


def thinned(events: list[Event]) -> list[Event]:
    """At most MOST_EVENTS: the oldest that answers left go first, then what a later event overrides: a quarantine must not
    lapse by answering on. Raises LatentmemError when a person's own are too many."""
    over = len(events) - MOST_EVENTS
    if over <= 0:
        return events
    newest = {_about(e): i for i, e in enumerate(events)}
    uses = [i for i, e in enumerate(events) if e.kind in USES]
    gone = set([*uses, *(i for i, e in enumerate(events) if e.kind not in USES and newest[_about(e)] != i)][:over])
    if len(gone) < over:
        raise LatentmemError(f"{MOST_EVENTS} notes and changes of shared memories are as many as this shared app keeps for "
                             "you: run latentmem on your own computer for more.")
    return [e for i, e in enumerate(events) if i not in gone]


def _about(event: Event) -> tuple[str, str, str]:
    """What the newest event decides: a tag, or whether a memory is in quarantine. Of all else each counts."""
    if event.kind in STATES:
        return event.memory_id, "state", ""
    return event.memory_id, event.kind, str(event.detail.get("tag")) if event.kind == "tag" else event.id


def weight(events: Iterable[Event]) -> int:
    """Bytes that a person's words ask for. What answers leave, and what takes something back, asks for none."""
    return sum(len(str(e.detail)) for e in events if e.kind in ("note", "tag") and "removes" not in e.detail
               and e.detail.get("on") is not False)
