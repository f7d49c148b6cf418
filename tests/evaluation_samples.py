"""Systems that need no model: their answers follow from the problem and from what they have learnt,
and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from latentmem.evaluation.datasets import DataSet, load
from latentmem.evaluation.protocols import SystemSpec
from latentmem.evaluation.results import ONE, VOTE, AnswerMode, Cost, Reply
from latentmem.records import (
    Cluster,
    Distilled,
    Hit,
    Problem,
    Route,
    Side,
    Status,
    Trace,
    Vote,
    digest,
)


def problems(n: int, name: str = "toy", first: int = 0) -> tuple[Problem, ...]:
    return tuple(
        Problem(
            f"What is {i} + 1 of {name}?",
            f"{name}-{i}",
            str(i + 1),
            f"toy/{'odd' if i % 2 else 'even'}",
        )
        for i in range(first, first + n)
    )


def data(n: int, name: str = "toy", first: int = 0) -> DataSet:
    return DataSet(name, name, problems(n, name, first))


def chance(*parts: object) -> float:
    return int(digest(*map(str, parts))[:8], 16) / 16**8


def side(
    problem: Problem, name: Side, mode: AnswerMode, good: float
) -> tuple[Vote, tuple[Trace, ...]]:
    """Traces that are right with the chance `good`; their truth is read off the problem's text, as
    a model would."""
    truth = solved(problem)
    traces = []
    for row in range(mode.traces):
        answer = str(truth if chance(problem.id, name, row, mode.name) < good else truth + 1)
        traces.append(Trace(row, f"\\boxed{{{answer}}}", answer, True, 10 + row, name, (1, 2)))
    rows: dict[str, list[int]] = {}
    for t in traces:
        rows.setdefault(str(t.answer), []).append(t.row)
    clusters = sorted(
        (Cluster(a, tuple(r)) for a, r in rows.items()), key=lambda c: (-c.size, c.rows[0])
    )
    return Vote(tuple(clusters), mode.traces, mode.traces, side=name), tuple(traces)


@cache
def examples() -> dict[str, int]:
    return {p.text: int(p.answer) for p in load("examples").problems if str(p.answer).isdigit()}


def solved(problem: Problem) -> int:
    """The answer of a toy or of one of the project's examples; of anything else, a number."""
    words = problem.text.split()
    if len(words) > 2 and words[:2] == ["What", "is"] and words[2].isdigit():
        return int(words[2]) + 1
    return examples().get(problem.text, len(problem.text))


class FakeSystem:
    """With `memories` it answers twice and routes; each lesson makes the memory side better. Notes
    whatever it is given."""

    needs_labels = False

    def __init__(
        self,
        name: str,
        *,
        memories: bool = False,
        good: float = 0.5,
        offline: bool = False,
        pace: float = 0.0,
    ) -> None:
        self.name, self.memories, self.good, self.offline, self.pace = (
            name,
            memories,
            good,
            offline,
            pace,
        )
        self.spent, self.known, self.fitted = Cost(), [], 0
        self.seen: list[tuple[str, Problem]] = []

    def fit(self, problems: Sequence[Problem]) -> Iterator[Any]:
        self.seen += [("fit", p) for p in problems]
        if self.offline:
            yield Status("training")
            self.fitted = len(problems)
            self.spent += Cost(1000, 10, 5.0)

    def learn(self, problems: Sequence[Problem]) -> Iterator[Any]:
        self.seen += [("learn", p) for p in problems]
        if not self.memories:
            return
        for p in problems:
            yield Status(f"distilling {p.id}")
            time.sleep(10 * self.pace)
            self.known.append(p.id)
            self.spent += Cost(100, 1, 0.5)
            yield Distilled(p.id, None, "toys leave no soft prompt")

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        for p in problems:
            self.seen.append(("reply", p))
            time.sleep(self.pace)
            alone, traces = side(p, "zero_shot", mode, self.good)
            if not self.memories or not self.known:
                cost = Cost(sum(t.tokens for t in traces), 5, 0.25)
                yield Reply(
                    p.id, self.name, mode.name, alone.label, {"zero_shot": alone}, traces, cost
                )
                continue
            hit = Hit(self.known[int(chance("hit", p.id) * len(self.known))], "a memory", 0.75, 1)
            helped, more = side(p, "memory", mode, min(0.95, self.good + 0.05 * len(self.known)))
            agreed = alone.label == helped.label
            scores = {"zero_shot": alone.majority_ratio, "memory": helped.majority_ratio}
            chosen: Side = (
                "memory" if not agreed and scores["memory"] > scores["zero_shot"] else "zero_shot"
            )
            votes = {"zero_shot": alone, "memory": helped}
            cost = Cost(sum(t.tokens for t in (*traces, *more)), 10, 0.5)
            yield Reply(
                p.id,
                self.name,
                mode.name,
                votes[chosen].label,
                votes,
                (*traces, *more),
                cost,
                hit,
                Route(chosen, votes[chosen].label, agreed, "as the fake likes"),
                True,
                {} if agreed else {"vote_share": scores},
            )

    def save(self, folder: Path) -> None:
        (folder / "known.json").write_text(
            json.dumps(
                [self.known, self.fitted, [self.spent.tokens, self.spent.read, self.spent.seconds]]
            )
        )

    def load(self, folder: Path) -> None:
        self.known, self.fitted, spent = json.loads((folder / "known.json").read_text())
        self.spent = Cost(*spent)


class Cast:
    """Makes specs and remembers the systems that were made."""

    def __init__(self) -> None:
        self.made: list[FakeSystem] = []

    def spec(
        self, name: str, modes: tuple[AnswerMode, ...] = (ONE, VOTE), **how: Any
    ) -> SystemSpec:
        def make() -> FakeSystem:
            self.made.append(FakeSystem(name, **how))
            return self.made[-1]

        learns = "online" if how.get("memories") else "offline" if how.get("offline") else ""
        return SystemSpec(name, modes, make, learns)

    def all(self) -> list[SystemSpec]:
        return [
            self.spec("zero_shot"),
            self.spec("elm", memories=True),
            self.spec("offline_ttrl", offline=True),
        ]

    @property
    def seen(self) -> list[tuple[str, Problem]]:
        return [one for system in self.made for one in system.seen]


def fake_cast(
    engine: Any, systems: Sequence[str], data: DataSet, folder: Path
) -> tuple[list[SystemSpec], dict[str, Any]]:
    """In the place of the Stream panel's `cast`, for an engine without a model."""
    from latentmem.ui.panels.stream import entered

    good = {"zero_shot": 0.5, "icl_raw": 0.55, "elm": 0.5}
    specs = entered(
        systems,
        lambda name: FakeSystem(
            name, memories=name in ("elm", "icl_raw"), good=good[name], pace=engine.pace
        ),
    )
    return specs, {
        "protocol": "stream",
        "systems": {e.name: [f.name for f in e.modes] for e in specs},
    }
