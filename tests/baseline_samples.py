"""What the tests of the comparison's rows share: an engine over a tiny random model, and problems
nobody may look behind.

A random model boxes nothing, so its traces get answers from their own text by a stand-in extractor:
the rows are real, the mathematics is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentmem.bank import Bank
from latentmem.engine import Engine
from latentmem.engine.loader import Place
from latentmem.evaluation.baselines.registry import SystemFactory
from latentmem.evaluation.results import Reply
from latentmem.method import rollouts
from latentmem.records import Problem
from latentmem.settings import Settings
from tests.tiny import tiny_model

QUICK = {
    "model": "tiny",
    "embedder": "tiny",
    "rollouts": 6,
    "max_new_tokens": 8,
    "temperature": 1.2,
    "steps": 2,
    "virtual_tokens": 4,
    "learning_rate": 0.01,
    "device": "cpu",
    "min_similarity": -1.0,
    "gate_votes": 1,
    "gate_lead": 0,
    "init_text": "Solve it.",
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Import it into a test module: a tiny model's sums are over before a second thread has woken,
    and one thread always adds up in the same order."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def embed(text: str) -> np.ndarray:
    """A unit vector from the counts of letters: near texts are near."""
    v = (
        np.array(
            [text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz0123456789"], np.float32
        )
        + 1e-3
    )
    return v / np.linalg.norm(v)


@cache
def shared_model() -> Any:
    """One for all tests, which change nothing in it; long enough for a past in the turn before."""
    return tiny_model(seed=5, num_hidden_layers=2, max_position_embeddings=4096)


def tiny_engine(monkeypatch: pytest.MonkeyPatch, model: Any = None, **settings: Any) -> Engine:
    def box(text: str) -> str | None:  # three classes of answers, some traces with none
        value = hashlib.md5(text.encode()).digest()[0]
        return None if value % 5 == 0 else str(value % 3)

    monkeypatch.setattr(rollouts, "extract_boxed", box)
    # a random model rarely ends by itself: let a cut-off trace count as finished
    whole = rollouts.Trace
    monkeypatch.setattr(rollouts, "Trace", lambda **k: whole(**{**k, "finished": True}))
    engine = Engine(Settings(**{**QUICK, **settings}), bank=Bank(":memory:"))
    engine._shared.loader._models[Place("tiny", "cpu")] = model or shared_model()
    engine._shared.loader._embedders["tiny"] = embed
    return engine


@pytest.fixture(scope="module")
def model() -> Any:
    return shared_model()


@pytest.fixture
def engine(model: Any, monkeypatch: pytest.MonkeyPatch) -> Engine:
    return tiny_engine(monkeypatch, model)


def make_factory(engine: Engine, folder: Path | None = None, **how: Any) -> SystemFactory:
    return SystemFactory(engine, folder, **{"rows": 12, "votes": 9, **how})


def problems(n: int, start: int = 0) -> list[Problem]:
    names = ["Tom", "Ann", "Bea", "Carl", "Dora", "Emil", "Fay"]
    return [
        Problem(
            f"{names[i % 7]} has {i + 3} apples and buys {2 * i + 1} more. How many?",
            answer=str(3 * i + 4),
        )
        for i in range(start, start + n)
    ]


class Poisoned(Problem):
    """A problem whose truth must not be looked at."""

    @property
    def answer(self) -> str:
        raise AssertionError("the truth was read")

    @answer.setter
    def answer(self, value: Any) -> None:
        pass


def poisoned(those: list[Problem]) -> list[Problem]:
    return [Poisoned(p.text, p.id, None, p.source) for p in those]


def bare(reply: Reply) -> Reply:
    """A reply without the time it took."""
    return replace(
        reply,
        cost=replace(reply.cost, seconds=0),
        traces=tuple(replace(t, seconds=0) for t in reply.traces),
    )


def labelled(n: int) -> list[Problem]:
    """Problems with a truth that the stand-in extractor, which answers 0, 1 or 2, at times
    meets."""
    return [Problem(p.text, answer="1") for p in problems(n)]


def run(generator: Any) -> Any:
    """The return value of a generator."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value
