"""The engine conducts: think, distil, answer, replay."""

from __future__ import annotations

from .engine import Engine

__all__ = ["Engine"]
