"""Whether an imported memory is trusted. On probation it is tried beside the model alone and never
answers; one that hurts beyond chance goes into quarantine by itself; one that is near to everything
makes room for the bank's own.

All follows from what this bank holds: where the memory came from, its own receipts and the verdicts
on them, its own memories. What an archive says of a memory's past counts for nothing.
"""

from __future__ import annotations

from itertools import takewhile
from math import comb
from typing import TYPE_CHECKING

from ..bank.interface import MemoryBank
from ..records import Event, Hit, KeyKind, LatentmemError, Memory, Receipt

if TYPE_CHECKING:
    import numpy as np

ENOUGH = 3  # problems on which an imported memory agrees before it may answer
# One-sided: seven wrong of seven. Each verdict is a look, so that of memories that are right as
# often as the model alone 2 in 100 fall below it within twenty verdicts, and 5 within a hundred.
CHANCE = 0.01


def imported(bank: MemoryBank, memory: Memory) -> bool:
    """Whether a memory came from an archive or an adapter, and not from this bank's own
    learning."""
    return "imported" in memory.settings or bool(bank.events(memory.id, kind="imported", limit=1))


def probation(bank: MemoryBank, memory: Memory) -> str:
    """One sentence on a memory that is on probation, '' for any other."""
    if not imported(bank, memory) or bank.events(memory.id, kind="trusted", limit=1):
        return ""
    return (
        "The memory was imported and is on probation: it answers once it has agreed with the model "
        f"alone on {ENOUGH} problems ({len(agreed(bank, memory.id))} so far)."
    )


def standing(bank: MemoryBank, memory: Memory, kind: KeyKind) -> str:
    """What a person should know of an imported memory, '' for any other."""
    crowded = hub(bank, memory, kind)
    said = [probation(bank, memory), f"{crowded[0].upper()}{crowded[1:]}." if crowded else ""]
    return " ".join(filter(None, said))


def agreed(bank: MemoryBank, memory_id: str) -> set[str]:
    """The texts of problems on which a memory agreed with the model alone, ENOUGH at most."""
    found: set[str] = set()
    for event in bank.events(memory_id, kind="agreed"):
        slip = _receipt(bank, event)
        if slip is not None and slip.route.agreed and len(found) < ENOUGH:
            found.add(slip.problem.text.strip())
    return found


def review(bank: MemoryBank, memory_id: str) -> Event | None:
    """Record what the newest answer or verdict decides about an imported memory: `trusted` when its
    probation is over, `quarantined` when it hurts beyond chance. None for nothing new."""
    if memory_id not in bank or not imported(bank, bank.get(memory_id)):
        return None
    if not bank.info(memory_id).quarantined and (reason := harm(bank, memory_id)):
        return bank.quarantine(memory_id, reason)
    if len(agreed(bank, memory_id)) < ENOUGH or bank.events(memory_id, kind="trusted", limit=1):
        return None
    reason = f"agreed with the model alone on {ENOUGH} problems"
    return bank.record(Event(memory_id, "trusted", detail={"reason": reason}))


def harm(bank: MemoryBank, memory_id: str) -> str:
    """Why a memory hurts beyond chance, '' if it does not: of its disagreements with the model
    alone that were judged since it was last released, how many went against it."""
    newest = takewhile(lambda e: e.kind != "released", bank.events(memory_id))
    verdicts = {
        slip.id: bool(e.detail.get("correct")) != (slip.memory_id is not None)
        for e in newest
        if e.kind == "feedback" and (slip := _receipt(bank, e)) is not None and _disagreed(slip)
    }
    lost, n = sum(verdicts.values()), len(verdicts)
    p = at_least(lost, n)
    return (
        f"It hurts beyond chance: {lost} of {n} judged disagreements with the model alone went "
        f"against it (p = {p:.2g})."
        if p <= CHANCE
        else ""
    )


def at_least(k: int, n: int, one_in: int = 2) -> float:
    """The probability of k or more hits in n tries, of which one in so many hits by chance:
    the binomial tail in integers, exact."""
    return sum(comb(n, i) * (one_in - 1) ** (n - i) for i in range(k, n + 1)) / one_in**n


def _receipt(bank: MemoryBank, event: Event) -> Receipt | None:
    """This bank's own receipt of an answer that tried the event's memory; none comes in an
    archive."""
    try:
        slip = bank.receipt(event.receipt_id)
    except LatentmemError:  # gone, or never here
        return None
    return slip if slip.used is not None and slip.used.memory_id == event.memory_id else None


def _disagreed(receipt: Receipt) -> bool:
    """Whether both sides answered, and differently."""
    return (
        receipt.memory is not None
        and None not in (receipt.zero_shot.label, receipt.memory.label)
        and not receipt.route.agreed
    )


# ---------- Hubs: keys that are near to everything, by their text or by an attacker's hand.

OWN = 1000  # of the bank's own memories, the first so many are the reference
NEIGHBOURS = 10  # as in CSLS


def hub(bank: MemoryBank, memory: Memory, kind: KeyKind) -> str:
    """In words, that an imported memory is nearest to more problems of the bank's own memories
    than chance allows; '' for any other."""
    if kind not in memory.keys or not imported(bank, memory):
        return ""
    own = _own_keys(bank, memory, kind)
    n = len(own)
    if not n:
        return ""
    count = int((own @ memory.keys[kind] > _others(own).max(1)).sum())
    if at_least(count, n, n) > CHANCE:
        return ""
    return f"it is a hub, nearest for {count} of {n} other memories' problems, beyond chance"


def outdone(
    bank: MemoryBank, kind: KeyKind, least: float, here: np.ndarray, memory: Memory, hit: Hit
) -> str:
    """Why a hub makes room for one of the bank's own memories, '' if it does not, or is none.

    Both are ranked by their similarity to the problem, whose key is `here`, minus their mean
    similarity to their nearest neighbours: CSLS (Conneau et al., arXiv 1710.04087) with the whole
    mean in place of half, which alone holds back a key that is the mean of all problems. `least`:
    the similarity that a memory needs to be tried.
    """
    import numpy as np

    if not (words := hub(bank, memory, kind)):
        return ""
    own = _own_keys(bank, memory, kind)
    near, some = own @ here, min(NEIGHBOURS, len(own) - 1)
    fair = np.where(near >= least, near - _usual(_others(own), some), -np.inf)
    mine = hit.similarity - float(_usual((own @ memory.keys[kind])[None], some)[0])
    return words if float(fair.max()) > mine else ""


def _own_keys(bank: MemoryBank, memory: Memory, kind: KeyKind) -> np.ndarray:
    """Keys [n, d] of the bank's own memories for the same model that may be compared with this
    one's, the first OWN."""
    import numpy as np

    try:
        ids, keys = bank.keys(kind, model=memory.model)
    except LatentmemError:  # of two lengths
        ids, keys = [], np.empty((0, 0))
    foreign = {e.memory_id for e in bank.events(kind="imported")} | {memory.id}
    rows = [row for row, ident in enumerate(ids) if ident not in foreign][:OWN]
    same = bool(rows) and keys.shape[1:] == memory.keys[kind].shape
    return keys[rows] if same else np.empty((0, len(memory.keys[kind])), np.float32)


def _others(keys: np.ndarray) -> np.ndarray:
    """Similarities [n, n] of keys to each other; to themselves below all others."""
    import numpy as np

    found: np.ndarray = keys @ keys.T
    np.fill_diagonal(found, -1.0)
    return found


def _usual(similarities: np.ndarray, k: int) -> np.ndarray:
    """The mean of the k largest similarities of each row."""
    import numpy as np

    return np.sort(similarities, 1)[:, -k:].mean(1)
