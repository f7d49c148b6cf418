"""What a process of a build with Ray runs on: the tiny model. In a module of its own, because a
worker imports it by name."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from latentmem.engine import Engine
from tests.baseline_samples import QUICK, tiny_engine

RECIPE = ("seed", "steps", "learning_rate", "max_problem_chars")
PATCH = pytest.MonkeyPatch()


@cache
def base() -> Engine:
    return tiny_engine(PATCH)


def make(settings: Any) -> Engine:
    """The engine of commands and of workers: on the tiny model, on the bank and with the recipe of
    the command line."""
    given = {k: getattr(settings, k) for k in RECIPE if k in settings.model_fields_set}
    small = base().settings.changed(**{**QUICK, **given, "bank": settings.bank})
    return Engine(small, _shared=base()._shared)
