"""Receipts in a bank: each stands there with the events of its answer, and the newest stay.

A receipt belongs to the answer, not to the memory: it stays when a memory of it is deleted, because it also says what the
model alone and the router did, and whoever was given that answer may still ask why. It is never exported: it holds what
somebody asked, and an archive is made to be given away. Whoever keeps the bank may `forget` it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from . import bank_codec as codec
from .bank_schema import insert_sql
from .bank_store import Store, insert_events, stamped
from .records import Event, LatentmemError, Receipt

MOST = 2000  # receipts in a bank
ROOM = 32 << 10  # bytes for each of them on average; one of two times eight rollouts takes about 6,000

# From the newest on, as many as the number and the room allow: (number, bytes).
PRUNE = """DELETE FROM receipts WHERE seq <= (
  SELECT MAX(seq) FROM (SELECT seq, ROW_NUMBER() OVER newest AS n, SUM(size) OVER newest AS bytes FROM receipts
                        WINDOW newest AS (ORDER BY seq DESC)) WHERE n > ? OR bytes > ?)"""
OF_MEMORY = "WHERE id IN (SELECT receipt_id FROM events WHERE memory_id = ?)"


def keep(store: Store, receipt: Receipt, events: Sequence[Event], most: int) -> None:
    """Store a receipt and the events of its answer, all or nothing, and let go of the oldest beyond `most`.

    Keeping the same id again keeps the first. Events of a memory that was deleted meanwhile are left out.
    """
    row, batch = codec.receipt_row(receipt), stamped(events)
    with store.writing() as db:
        if db.execute("SELECT 1 FROM receipts WHERE id = ?", (receipt.id,)).fetchone() is None:
            db.execute(insert_sql("receipts", list(row)), list(row.values()))
        insert_events(db, batch)
        db.execute(PRUNE, (most, most * ROOM))


def read(store: Store, receipt_id: str, most: int) -> Receipt:
    """One receipt. Raises LatentmemError when it is not there (any more) or damaged."""
    row = None
    if isinstance(receipt_id, str) and receipt_id.isascii():
        with store.reading() as db:
            row = db.execute("SELECT * FROM receipts WHERE id = ?", (receipt_id,)).fetchone()
    if row is None:
        raise LatentmemError(f"There is no receipt {str(receipt_id)[:40]!r} here: a bank keeps those of the newest {most} "
                             "answers given with it, so ask the problem again for a new one.")
    return codec.receipt_of(row)


def listed(store: Store, memory_id: str | None, limit: int) -> list[Receipt]:
    """Receipts, of all answers or of those in which a memory took part, newest first, without the damaged ones, which
    `verify` names."""
    with store.reading() as db:
        rows = db.execute(f"SELECT * FROM receipts {OF_MEMORY if memory_id else ''} ORDER BY seq DESC LIMIT ?",
                          [memory_id, limit] if memory_id else [limit]).fetchall()
    found = []
    for row in rows:
        try:
            found.append(codec.receipt_of(row))
        except LatentmemError:
            continue
    return found


def problems(store: Store, memory_id: str) -> dict[str, str]:
    """Receipt id -> problem, of the answers in which a memory took part, newest first; their receipts are not opened."""
    with store.reading() as db:
        rows = db.execute(f"SELECT id, problem FROM receipts {OF_MEMORY} ORDER BY seq DESC", (memory_id,)).fetchall()
    return {row[0]: row[1] for row in rows}


def forget(store: Store, receipt_ids: Collection[str] | None) -> int:
    """Delete these receipts, or all; how many those were. An unknown id raises LatentmemError, and nothing is deleted.

    `secure_delete` overwrites them in the file; the checkpoint takes them out of the log beside it, too.
    """
    with store.writing() as db:
        if receipt_ids is None:
            gone = db.execute("DELETE FROM receipts").rowcount
        else:
            chosen = list(dict.fromkeys(receipt_ids))
            for ident in chosen:
                if not db.execute("DELETE FROM receipts WHERE id = ?", (ident,)).rowcount:
                    raise LatentmemError(f"There is no receipt {str(ident)[:40]!r} here, so none was deleted: "
                                         "`latentmem receipts` lists them.")
            gone = len(chosen)
    with store.reading() as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return gone
