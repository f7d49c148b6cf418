"""Notes and tags on memories. Both are events, so nothing is overwritten, and a union of two banks
keeps them. A removal is an event, too: the newest event about a tag or a note decides."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..records import Event, LatentmemError
from .interface import MemoryBank

MOST_TAG, MOST_NOTE = 32, 2000  # characters


@dataclass(frozen=True, slots=True)
class Note:
    """What a person wrote about a memory."""

    id: str
    text: str
    created: str


def clean_tag(name: str) -> str:
    """A tag as it is stored: lower case, single blanks. Raises LatentmemError."""
    tag = " ".join(str(name).split()).lower()
    if not tag:
        raise LatentmemError("The tag is empty: type a word.")
    if len(tag) > MOST_TAG or not tag.isprintable() or "," in tag:
        raise LatentmemError(
            f"The tag {tag[:40]!r} does not fit: use up to {MOST_TAG} printable characters "
            "without a comma."
        )
    return tag


def tag(bank: MemoryBank, memory_ids: Iterable[str], name: str, on: bool = True) -> int:
    """Give memories a tag, or remove it; returns how many changed. Raises LatentmemError."""
    word, has = clean_tag(name), tags(bank)
    ids = [bank.info(i).id if i not in bank else i for i in memory_ids]
    changed = [i for i in dict.fromkeys(ids) if (word in has.get(i, ())) != on]
    bank.record_all([Event(i, "tag", detail={"tag": word, "on": on}) for i in changed])
    return len(changed)


def tags(bank: MemoryBank, memory_id: str | None = None) -> dict[str, tuple[str, ...]]:
    """Memory id -> its tags in alphabetical order, of all tagged memories or of this one."""
    state: dict[tuple[str, str], bool] = {}
    for event in bank.events(memory_id, kind="tag"):  # newest first, so the first one seen decides
        word, on = event.detail.get("tag"), event.detail.get("on", True)
        if isinstance(word, str) and _fits(word):
            state.setdefault((event.memory_id, word), on is True)
    found: dict[str, list[str]] = {}
    for (ident, word), on in state.items():
        if on:
            found.setdefault(ident, []).append(word)
    return {ident: tuple(sorted(words)) for ident, words in found.items()}


def _fits(word: str) -> bool:
    """Whether a stored tag is valid: banks come from elsewhere, too."""
    try:
        return clean_tag(word) == word
    except LatentmemError:
        return False


def add_note(bank: MemoryBank, memory_id: str, text: str) -> Note:
    """Keep a note. Raises LatentmemError."""
    clean = str(text).encode("utf-8", "replace").decode().strip()
    if not clean:
        raise LatentmemError("The note is empty: write something.")
    if len(clean) > MOST_NOTE:
        raise LatentmemError(
            f"The note has {len(clean)} characters and the limit is {MOST_NOTE}: shorten it."
        )
    event = bank.record(Event(memory_id, "note", detail={"text": clean}))
    return Note(event.id, clean, event.created)


def remove_note(bank: MemoryBank, memory_id: str, note_id: str) -> None:
    """Remove a note. Raises LatentmemError if the memory does not have it."""
    if note_id not in {n.id for n in notes(bank, memory_id).get(bank.info(memory_id).id, ())}:
        raise LatentmemError(f"There is no note {str(note_id)[:40]!r}: it was removed meanwhile.")
    bank.record(Event(memory_id, "note", detail={"removes": note_id}))


def notes(bank: MemoryBank, memory_id: str | None = None) -> dict[str, tuple[Note, ...]]:
    """Memory id -> its notes, newest first, of all memories that have one, or of this one."""
    events = bank.events(memory_id, kind="note")
    gone = {(e.memory_id, str(e.detail.get("removes"))) for e in events}
    found: dict[str, list[Note]] = {}
    for e in events:
        text = e.detail.get("text")
        if isinstance(text, str) and text.strip() and (e.memory_id, e.id) not in gone:
            found.setdefault(e.memory_id, []).append(Note(e.id, text[:MOST_NOTE], e.created))
    return {ident: tuple(some) for ident, some in found.items()}
