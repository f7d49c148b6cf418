"""The store of memories, without torch: one SQLite file, overlays, archives, PEFT adapters."""

from __future__ import annotations

from .bank import Bank
from .interface import MemoryBank
from .overlay import Overlay

__all__ = ["Bank", "MemoryBank", "Overlay"]
