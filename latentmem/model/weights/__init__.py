"""Model weights by name: fetched, checked by sha256, converted once, kept in the cache."""

from __future__ import annotations

from .resolve import ensure

__all__ = ["ensure"]
