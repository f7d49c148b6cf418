"""Endpoints for what lies in the bank: memories and the receipts of earlier answers. None needs the model."""

from __future__ import annotations

from ..records import LatentmemError, to_dict
from .api_answers import as_dict, checked, said
from .map_actions import forget_receipt
from .session import Desk


@checked
def memories(desk: Desk, text: str = "", limit: int = 100) -> list[dict]:
    """Rows of the bank, newest first.

    Parameters:
        text: only those whose problem, answer or id contains this
        limit: at most so many, up to 1000
    """
    return [to_dict(i) for i in said(lambda: desk.engine.bank.infos(text=text or None, limit=max(1, min(limit, 1000))))]


@checked
def memory(desk: Desk, memory_id: str) -> dict:
    """One memory: its row, vote, steps, settings, last events, ids of receipts; without its arrays and traces.

    Parameters:
        memory_id: its id, or the beginning of it
    """
    bank = desk.engine.bank
    info, whole = said(lambda: (bank.info(memory_id), bank.get(memory_id)))
    events, asked = said(lambda: (bank.events(info.id, limit=100), bank.asked(info.id)))
    return to_dict(info) | {"vote": to_dict(whole.vote), "steps": [to_dict(s) for s in whole.steps],
                            "settings": dict(whole.settings), "events": [to_dict(e) for e in events],
                            "receipts": list(asked)}


@checked
def receipt(desk: Desk, receipt_id: str) -> dict:
    """The receipt of an earlier answer, as `solve` returned it but with its traces cut short.

    Parameters:
        receipt_id: its id, from `solve` or among the receipts and events of a `memory`
    """
    return as_dict(said(lambda: desk.engine.bank.receipt(receipt_id)))


@checked
def forget(desk: Desk, receipt_id: str) -> str:
    """Deletes a receipt for good: what was asked, the votes and the traces; what the answer counted for memories stays.
    In a shared app, one of the client's own. Returns its id.

    Parameters:
        receipt_id: the whole id
    """
    return said(lambda: forget_receipt(desk.engine.bank, receipt_id))


@checked
def neighbours(desk: Desk, memory_id: str, k: int = 5) -> list[dict]:
    """The memories nearest to a memory, itself left out.

    Parameters:
        memory_id: its id
        k: how many
    """
    return [to_dict(h) for h in said(lambda: desk.engine.neighbours(memory_id, max(1, min(int(k), 100))))]


@checked
def quarantine(desk: Desk, memory_id: str, reason: str = "") -> str:
    """Keeps a memory from being tried. Returns its id.

    Parameters:
        memory_id: its id
        reason: one sentence, kept with it
    """
    return said(lambda: desk.engine.bank.quarantine(memory_id, reason[:500]).memory_id)


@checked
def release(desk: Desk, memory_id: str) -> str:
    """Lets a memory be tried again. Returns its id.

    Parameters:
        memory_id: its id
    """
    return said(lambda: desk.engine.bank.release(memory_id).memory_id)


@checked
def delete(desk: Desk, memory_id: str) -> str:
    """Deletes a memory for good. Returns its id.

    Parameters:
        memory_id: the whole id: a beginning is not enough
    """

    def gone() -> str:
        if memory_id not in desk.engine.bank:
            raise LatentmemError(f"There is no memory with the id {memory_id[:40]!r}: give the whole id.")
        desk.engine.bank.delete(memory_id)
        return memory_id

    return said(gone)
