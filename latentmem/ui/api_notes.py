"""Endpoints for what people write about memories, and for the words near a memory's virtual tokens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .. import bank_notes
from ..records import to_dict
from ..words import memory_words
from .api_answers import checked, kept, said
from .session import Desk, exclusively, ready_engine


@checked
def tag(desk: Desk, memory_id: str, name: str, on: bool = True) -> list[str]:
    """Gives a memory a tag, or takes it away. Returns its tags.

    Parameters:
        memory_id: its id
        name: one or a few words
        on: false takes the tag away
    """
    def given() -> list[str]:
        one = desk.engine.bank.info(memory_id).id
        bank_notes.tag(desk.engine.bank, [one], name, on)
        return list(bank_notes.tags(desk.engine.bank, one).get(one, ()))

    return said(given)


@checked
def note(desk: Desk, memory_id: str, text: str = "") -> list[dict]:
    """Keeps a note with a memory; without a text nothing is written. Returns all its notes.

    Parameters:
        memory_id: its id
        text: what was noticed
    """
    def written() -> list[dict]:
        name = desk.engine.bank.info(memory_id).id
        if text:
            bank_notes.add_note(desk.engine.bank, name, text)
        return [to_dict(n) for n in bank_notes.notes(desk.engine.bank, name).get(name, ())]

    return said(written)


@checked
def words(desk: Desk, memory_id: str) -> list[list[dict]]:
    """The words nearest to each virtual token of a memory: neighbours, and not what the token says.

    Parameters:
        memory_id: its id
    """
    found: list[Any] = []

    def records() -> Iterator[Any]:
        memory = desk.engine.bank.get(memory_id)
        engine = yield from ready_engine(desk, {})
        found.extend(memory_words(engine.model, memory))

    kept(exclusively(desk, records()))
    return [[to_dict(w) for w in row] for row in found]
