"""What the tests of the app's handlers share: a bank of two memories, visitors, and a solved problem."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from latentmem.records import Problem
from latentmem.ui import distil, solve
from latentmem.ui.session import Desk

from .fake_engine import FakeEngine, fill_bank

ANN, BO = "Ann has 3 cats and 4 dogs. How many pets?", "Bo has 5 cats and 6 dogs. How many pets?"
LOOK = ("", "source", "input")
SETTINGS = (8, 0.8, 1.0, 320, 0, "vote_share", "input", 0.25)


def visitor(name: str = "a", **query: str) -> Any:
    return SimpleNamespace(session_hash=name, query_params=query)


def new_desk() -> Desk:
    engine = FakeEngine()
    fill_bank(engine, [Problem(BO, source="pets"), Problem("A train goes 40 km in an hour.", source="trains")])
    return Desk(engine)


def asked(desk: Desk, text: str = ANN, mode: str = "auto", memory: str | None = None, who: Any = None, **changes: Any) -> list:
    names = ("rollouts", "temperature", "top_p", "max_new_tokens", "seed", "verifier", "key", "min_similarity")
    values = dict(zip(names, SETTINGS, strict=True)) | changes
    return list(solve.solve(desk, text, mode, memory, *values.values(), who or visitor()))


def text_of(area: Any) -> str:
    return " ".join(html for _, html in area)


def distilled(desk: Desk, text: str = ANN, who: Any = None) -> list:
    return list(distil.distil(desk, text, *SETTINGS, 4, 1e-3, 20, who or visitor()))
