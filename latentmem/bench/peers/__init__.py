"""The programs we are compared with, one file each. Their packages are the extra `bench`: pip
install -e ".[bench]"."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..workloads import PeerMissing


def package(module: str, name: str) -> Any:
    """A peer's package. Raises PeerMissing, one sentence, if it is not installed."""
    try:
        return import_module(module)
    except ImportError as e:
        raise PeerMissing(
            f'{name} is not installed ({e}): pip install {name}, or pip install -e ".[bench]".'
        ) from None
