"""What a bank can do: the one interface that `Bank` (a file) and `Overlay` (a visitor's own bank
over a shared one) implement. The engine and the app know nothing else."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from ..records import Event, Hit, KeyKind, Memory, MemoryInfo, Receipt

if TYPE_CHECKING:
    import numpy as np

    from .archive import ExportReport, ImportReport


class MemoryBank(Protocol):
    """Where an id is asked for, its first characters will do, from 4 on, if they begin only one.

    Whatever a user can cause raises LatentmemError. `Bank` documents the methods.
    """

    path: str
    read_only: bool

    @property
    def untouched(self) -> bool: ...

    @property
    def private(self) -> int:
        """Number of memories that only this visitor of a shared app sees."""
        return 0

    def close(self) -> None: ...

    # -------------------------------------------------------------- memories
    def put(self, memory: Memory) -> str: ...

    def get(self, memory_id: str) -> Memory: ...

    def delete(self, memory_id: str) -> None: ...

    def owns(self, memory_id: str) -> bool:
        """Whether the caller may delete the memory."""
        return not self.read_only

    def check_room(self, wanted: int = 1) -> None:
        """Raises LatentmemError when there is no room for that many more memories."""
        return None

    def __contains__(self, memory_id: object) -> bool: ...

    def __len__(self) -> int: ...

    def info(self, memory_id: str) -> MemoryInfo: ...

    def infos(
        self,
        *,
        source: str | None = None,
        model: str | None = None,
        quarantined: bool | None = None,
        limit: int | None = None,
        text: str | None = None,
    ) -> list[MemoryInfo]: ...

    def soft_prompts(self) -> Iterator[tuple[str, np.ndarray]]: ...

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
    ) -> tuple[Hit, ...]: ...

    def keys(
        self, kind: KeyKind, *, model: str | None = None, include_quarantined: bool = False
    ) -> tuple[list[str], np.ndarray]: ...

    # -------------------------------------------------------------- events
    def record(self, event: Event) -> Event: ...

    def record_all(self, events: Sequence[Event]) -> None: ...

    def events(
        self,
        memory_id: str | None = None,
        *,
        kind: str | None = None,
        receipt_id: str | None = None,
        limit: int | None = None,
    ) -> list[Event]: ...

    def quarantine(self, memory_id: str, reason: str) -> Event:
        """Hide a memory from search until it is released."""
        return self.record(Event(memory_id, "quarantined", detail={"reason": reason}))

    def release(self, memory_id: str) -> Event:
        """Let search find a quarantined memory again."""
        return self.record(Event(memory_id, "released"))

    # -------------------------------------------------------------- receipts
    def keep_receipt(self, receipt: Receipt, events: Sequence[Event] = ()) -> None: ...

    def receipt(self, receipt_id: str) -> Receipt: ...

    def receipts(
        self, memory_id: str | None = None, *, limit: int | None = None
    ) -> list[Receipt]: ...

    def asked(self, memory_id: str) -> dict[str, str]: ...

    def forget(self, receipt_ids: Collection[str] | None = None) -> int: ...

    # -------------------------------------------------------------- sharing and state
    def export_zip(
        self, target: str | Path | IO[bytes], ids: Collection[str] | None = None
    ) -> ExportReport: ...

    def import_zip(
        self, source: str | Path | IO[bytes], *, model: str | None = None
    ) -> ImportReport: ...

    def export_peft(
        self, memory_id: str, folder: str | Path, *, base_model: str | None = None
    ) -> None: ...

    def stats(self) -> dict[str, Any]: ...

    def stamp(self) -> Hashable: ...

    def memories_stamp(self) -> Hashable: ...
