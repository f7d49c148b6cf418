"""An engine that streams what it was given, over a real bank, and a terminal that runs commands
with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from typer.testing import CliRunner, Result

from latentmem.bank import Bank
from latentmem.cli.app import app
from latentmem.records import (
    Cluster,
    Delta,
    Distilled,
    Hit,
    Memory,
    Problem,
    Receipt,
    Retrieval,
    Route,
    Status,
    Step,
    Trace,
    Vote,
)
from latentmem.settings import Settings

ONE = "A taxi charges $5 to start and $2 a mile. The ride costs $37. How many miles?"
TRACES = (
    Trace(0, "so [bold]16[/bold] \x1b[31m\\boxed{16}", "16", True, 9, token_ids=(1, 2)),
    Trace(1, "it is \\boxed{16}", "16", True, 7),
    Trace(2, "hm", None, False, 20),
)
VOTE = Vote((Cluster("16", (0, 1)),), 3, 2)
STEP = Step(1, 2, "16", 0.75, (1.0, 0.0), 0.01, 0.5, 0.02, 1.0, 80.0, 0.3, 640, 1.5, 2.5, "p1")
HIT = Hit("m0123456789abcdef", "A taxi", 0.91, 1, 0.2)
ROUTE = Route("memory", "16", False, "The verifier chose it.", {"memory": 0.9}, "judge")
RECEIPT = Receipt(
    "r1",
    Problem(ONE),
    "16",
    HIT.memory_id,
    HIT.name,
    (HIT,),
    HIT,
    "input",
    VOTE,
    replace(VOTE, side="memory"),
    ROUTE,
    7,
    "f" * 64,
    "toy",
    36,
    1.25,
    {"rollouts": 3},
    "d" * 64,
    TRACES,
)


def memory(text: str = ONE, source: str = "examples/equation", seed: int = 0) -> Memory:
    rng = np.random.default_rng(seed)
    keys = {
        kind: (v := rng.normal(size=8).astype(np.float32)) / np.linalg.norm(v)
        for kind in ("input", "kv")
    }
    return Memory(
        Problem(text, source=source),
        rng.normal(size=(2, 4)).astype(np.float32),
        keys,
        "f" * 64,
        "toy",
        VOTE,
        TRACES,
        (STEP,),
        1,
        {"steps": 2},
        "2026-01-31T12:00:00+00:00",
    )


class FakeEngine:
    """Streams what it was given, over a real bank. `closed` tells that the stream was closed."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.asked: list[Any] = []
        self.closed = False
        self.script: dict[str, list[Any]] = {
            "think": [Status("Sampling", 1, 3), Delta(0, "so"), *TRACES, VOTE],
            "distil": [
                Status("Sampling"),
                *TRACES,
                VOTE,
                STEP,
                replace(STEP, step=2),
                Distilled("p1", memory(), "The vote rose from 2 to 3.", (STEP,), kept=True),
            ],
            "answer": [
                Retrieval("p1", "input", (HIT,)),
                *TRACES,
                VOTE,
                replace(VOTE, side="memory"),
                RECEIPT,
            ],
            "replay": [RECEIPT],
        }

    @property
    def bank(self) -> Bank:
        return Bank(self.settings.bank)

    def _play(self, name: str, *asked: Any) -> Iterator[Any]:
        self.asked.append((name, *asked))
        try:
            for record in self.script[name]:
                if isinstance(record, BaseException):
                    raise record
                yield record
        finally:
            self.closed = True

    def think(self, problem: Problem, *, memory_id: str | None = None) -> Iterator[Any]:
        return self._play("think", problem, memory_id)

    def distil(self, problem: Problem) -> Iterator[Any]:
        return self._play("distil", problem)

    def distil_many(self, problems: list[Problem]) -> Iterator[Any]:
        return self._play("distil", *problems)

    def answer(self, problem: Problem, memory: str = "auto") -> Iterator[Any]:
        return self._play("answer", problem, memory)

    def replay(self, receipt: Receipt) -> Iterator[Any]:
        return self._play("replay", receipt)

    def neighbours(self, memory_id: str, k: int = 5) -> tuple[Hit, ...]:
        return self.bank.search(self.bank.get(memory_id).keys["input"], k=k, exclude=(memory_id,))


class Terminal:
    """Runs commands with one fake engine, whose script a test may change before."""

    def __init__(self) -> None:
        self.engine: FakeEngine | None = None
        self.script: dict[str, list[Any]] = {}

    def make(self, settings: Settings) -> FakeEngine:
        self.engine = FakeEngine(settings)
        self.engine.script |= self.script
        return self.engine

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=stdin)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        result = self(*arguments, stdin=stdin)
        assert result.exit_code == 0, (result.output, result.exception)
        return result.stdout

    def fails(self, *arguments: str, code: int = 1) -> str:
        """What it said on standard error, which must be one sentence, without a traceback."""
        result = self(*arguments)
        assert result.exit_code == code, (result.exit_code, result.output, result.exception)
        assert "Traceback" not in result.output and len(result.stderr.strip().splitlines()) == 1, (
            result.stderr
        )
        return result.stderr.strip()

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.ok(*arguments, "--json").splitlines()]

    @property
    def asked(self) -> Any:
        assert self.engine is not None
        return self.engine.asked[-1]
