"""An Engine without a model: plausible records for tests of the app, and for looking at it.

`python -m tests.fake_engine [--port 7860] [--pace 0.02] [--memories 60]` serves the app over it.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from latentmem.bank import Bank
from latentmem.engine.receipts import Circumstances, events, judged, write
from latentmem.method.voting import vote
from latentmem.records import (
    Delta,
    Distilled,
    Hit,
    LatentmemError,
    Memory,
    Problem,
    Retrieval,
    Route,
    Side,
    Status,
    Step,
    Trace,
    Vote,
    digest,
)
from latentmem.settings import Settings

from .fake_memories import fake_model, history, many

MODEL, DIM, HIDDEN = "f" * 64, 48, 32
WORDS = (
    "First, read the problem carefully and write down what is known.",
    "**Step {n}.** We have \\( x_{n} = {a} \\).",
    "Multiplying gives \\[ {a} \\times {b} = {c}. \\]",
    "So the difference is $\\frac{{{a}}}{{{b}}} + {c}$.",
    "### Check\nIf we put it back, \\({a} + {b} = {s}\\), which fits.",
    "That costs ${a} and ${b} in all.",
    "`total = {a} * {b}`",
    "Hence nothing else is left over.",
)


class FakeEngine:
    """The interface of `latentmem.engine.engine.Engine`. `pace`: seconds of waiting a record.
    `fail`: what `answer` raises.

    A problem with "slowly" in it goes on until it is stopped, one with "unanimous" teaches nothing.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        bank: Bank | None = None,
        pace: float = 0.0,
        ready: bool = True,
        shared: dict[str, Any] | None = None,
    ) -> None:
        self.settings, self.pace = settings or Settings(rollouts=8, steps=5), pace
        self.bank = bank if bank is not None else Bank(":memory:")
        self.shared = (
            shared if shared is not None else {"ready": ready, "closed": 0, "open": 0, "fail": None}
        )

    @property
    def ready(self) -> bool:
        return self.shared["ready"]

    def changed(self, *, on_bank: Any = None, **settings: Any) -> FakeEngine:
        bank = self.bank if on_bank is None else on_bank
        return FakeEngine(
            self.settings.changed(**settings), bank=bank, pace=self.pace, shared=self.shared
        )

    def load(self) -> Iterator[Status]:
        for done in range(0, 101, 20):
            self.wait(6)
            yield Status("Downloading the model", done, 100)
        self.shared["ready"] = True

    @property
    def model(self) -> Any:
        return fake_model(HIDDEN, MODEL)

    def wait(self, records: float = 1) -> None:
        if self.pace:
            time.sleep(self.pace * records)

    def key(self, problem: Problem, kind: str | None = None) -> np.ndarray:
        """Words thrown into DIM buckets: problems that share words are similar."""
        key = np.full(DIM, 0.05)
        for word in re.findall(r"[a-z]+", problem.text.lower()):
            key[int(digest(kind or self.settings.key, word)[:8], 16) % DIM] += 1
        return (key / np.linalg.norm(key)).astype(np.float32)

    def think(self, problem: Problem, *, memory_id: str | None = None) -> Iterator[Any]:
        if memory_id:
            self.bank.get(memory_id)
        yield from self.sides(problem, ("memory",) if memory_id else ("zero_shot",))

    def sides(
        self, problem: Problem, sides: tuple[Side, ...], salt: int = 0, good: float = 0.6
    ) -> Iterator[Any]:
        plans = {
            (side, row): plan(
                problem, side, row, self.settings.seed + salt, good + 0.2 * (side == "memory")
            )
            for row in range(self.settings.rollouts)
            for side in sides
        }
        done: dict[Side, list[Trace]] = {side: [] for side in sides}
        slow = 50 if "slowly" in problem.text else 1
        if slow > 1:  # longer than any test takes to press Stop
            plans = {k: (pieces * 20, *rest) for k, (pieces, *rest) in plans.items()}
        for position in range(max(len(p[0]) for p in plans.values())):
            for (side, row), (pieces, answer, finished) in plans.items():
                if position < len(pieces):
                    self.wait(slow / len(plans))
                    yield Delta(row, pieces[position], side)
                if position == len(pieces) - 1:
                    ids = tuple(map(ord, "".join(pieces)[:20]))
                    done[side].append(
                        Trace(
                            row,
                            "".join(pieces),
                            answer,
                            finished,
                            12 * len(pieces),
                            side,
                            ids,
                            8.1,
                            0.7,
                            1.5,
                        )
                    )
                    yield done[side][-1]
                    yield vote(done[side], self.settings.rollouts, side)

    def answer(self, problem: Problem, memory: str = "auto") -> Iterator[Any]:
        self.shared["open"] += 1
        try:
            if self.shared["fail"] is not None:
                raise self.shared["fail"]
            yield from self._answer(problem, memory)
        finally:
            self.shared["open"] -= 1
            self.shared["closed"] += 1

    def _answer(self, problem: Problem, memory: str) -> Iterator[Any]:
        hits: tuple[Hit, ...] = ()
        if memory == "auto":
            hits = self.search(problem, self.settings.k).hits
        elif memory != "off":
            one = self.bank.get(memory)
            hits = (
                Hit(one.id, one.name, float(self.key(problem) @ one.keys[self.settings.key]), 1),
            )
        used = next(
            (h for h in hits if memory != "auto" or h.similarity >= self.settings.min_similarity),
            None,
        )
        yield Retrieval(problem.id, self.settings.key, hits)
        traces, votes = [], {}
        for record in self.sides(problem, ("zero_shot", "memory") if used else ("zero_shot",)):
            yield record
            if isinstance(record, Trace):
                traces.append(record)
            elif isinstance(record, Vote):
                votes[record.side] = record
        chosen = routed(votes, used)
        around = Circumstances(
            MODEL,
            "fake-model",
            {"seed": self.settings.seed, "rollouts": self.settings.rollouts},
            self.settings.seed,
            self.settings.key,
            hits,
            used,
        )
        receipt = write(problem, around, chosen, votes, traces, 2.4, "2026-01-02T03:04:05+00:00")
        self.bank.keep_receipt(receipt, events(receipt))
        yield receipt

    def distil(
        self, problem: Problem, *, keep: bool = True, enough: Callable[[], bool] = lambda: False
    ) -> Iterator[Any]:
        traces, first, steps = [], Vote((), 0, 0), []
        for record in self.sides(problem, ("zero_shot",)):
            yield record
            if isinstance(record, Trace):
                traces.append(record)
            elif isinstance(record, Vote):
                first = record
        if "unanimous" in problem.text:
            yield Distilled(problem.id, None, "All traces agree: there is nothing to learn.")
            return
        for n in range(1, self.settings.steps + 2):
            for record in self.sides(problem, ("memory",), salt=n, good=0.4 + 0.05 * n):
                yield record
                last = record
            yield Status(f"Training step {n} of {self.settings.steps}", 1, 2)
            self.wait(10)
            steps.append(fake_step(n, self.settings.steps, last, problem.id))
            yield steps[-1]
            if enough():
                break
        memory = fake_memory(self, problem, tuple(traces), first, tuple(steps))
        done = Distilled(
            problem.id,
            memory,
            f"Step {memory.best_step} agreed best with the first vote.",
            tuple(steps),
        )
        if keep:
            self.keep(done)
        yield replace(done, kept=keep)

    def distil_many(self, problems: Sequence[Problem], *, keep: bool = True) -> Iterator[Any]:
        for problem in problems:
            yield from self.distil(problem.unlabelled(), keep=keep)

    def keep(self, distilled: Distilled) -> str:
        if distilled.memory is None:
            raise LatentmemError(f"There is no memory to keep: {distilled.reason}")
        return self.bank.put(distilled.memory)

    def search(self, problem: Problem, k: int | None = None) -> Retrieval:
        kind = self.settings.key
        return Retrieval(
            problem.id, kind, self.bank.search(self.key(problem), kind=kind, k=k or self.settings.k)
        )

    def neighbours(self, memory_id: str, k: int = 5) -> tuple[Hit, ...]:
        memory, kind = self.bank.get(memory_id), self.settings.key
        return self.bank.search(memory.keys[kind], kind=kind, k=k, exclude=(memory.id,))

    def replay(self, receipt: Any) -> Iterator[Any]:
        again = self.changed(**receipt.settings)
        yield from again.answer(receipt.problem, receipt.used.memory_id if receipt.used else "off")

    def feedback(self, receipt: Any, correct: bool) -> None:
        for event in judged(
            receipt, correct, self.bank.events(kind="feedback", receipt_id=receipt.id)
        ):
            self.bank.record(event)


def plan(
    problem: Problem, side: str, row: int, seed: int, good: float
) -> tuple[list[str], str | None, bool]:
    """(pieces of text, answer, finished) of one rollout, always the same for the same arguments."""
    rng = random.Random(digest(problem.text, side, str(row), str(seed)))
    right = int(digest(problem.text)[:4], 16) % 90 + 2
    text = []
    for n in range(rng.randint(4, 8)):
        a, b = rng.randint(2, 19), rng.randint(2, 9)
        line = rng.choice(WORDS)
        for name, value in (("{n}", n + 1), ("{a}", a), ("{b}", b), ("{c}", a * b), ("{s}", a + b)):
            line = (
                line.replace("{{{a}}}", "{{a}}")
                .replace("{{{b}}}", "{{b}}")
                .replace(name, str(value))
            )
        text.append(line + "\n")
    kind = rng.random()
    if kind > 0.92:
        return re.findall(r"\S+\s*", "".join(text)), None, False
    if kind > 0.86:
        return re.findall(r"\S+\s*", "".join(text) + "So that is it."), None, True
    answer = str(right if rng.random() < good else right + rng.choice((-2, 1, 3)))
    if "fraction" in problem.text:
        answer = f"\\frac{{{answer}}}{{7}}"
    return (
        re.findall(r"\S+\s*", "".join(text) + f"The answer is \\( \\boxed{{{answer}}} \\)."),
        answer,
        True,
    )


def routed(votes: dict[Side, Vote], used: Hit | None) -> Route:
    alone, helped = votes["zero_shot"], votes.get("memory")
    if used is None or helped is None:
        return Route(
            "zero_shot" if alone.label else None,
            alone.label,
            False,
            "The bank holds no memory that is similar enough.",
        )
    if alone.label == helped.label:
        return Route("zero_shot", alone.label, True, "Both sides give the same answer.")
    scores = {"zero_shot": alone.majority_ratio, "memory": helped.majority_ratio}
    side: Side = "memory" if scores["memory"] > scores["zero_shot"] else "zero_shot"
    return Route(
        side,
        votes[side].label,
        False,
        f"The sides disagree, and the verifier prefers the side "
        f"{'with' if side == 'memory' else 'without'} the memory.",
        scores,
        "vote_share",
    )


def fake_step(n: int, steps: int, last: Vote, problem_id: str) -> Step:
    rng = random.Random(n)
    size = last.clusters[0].size if last.clusters else 0
    rewards = tuple([1.0] * size + [0.0] * (last.total - size))
    final = n > steps
    return Step(
        n,
        steps,
        last.label,
        last.majority_ratio,
        rewards,
        0.0 if final else rng.uniform(-0.05, 0.12),
        0.0 if final else rng.uniform(0.4, 1.4),
        0.011 * n,
        0.9,
        141.0,
        0.6,
        1128,
        1.1,
        0.9,
        problem_id,
        "final check, no gradient" if final else "",
    )


def fake_memory(
    engine: FakeEngine,
    problem: Problem,
    traces: tuple[Trace, ...],
    first: Vote,
    steps: tuple[Step, ...],
    created: str = "2026-01-02T03:04:05+00:00",
) -> Memory:
    rng = np.random.default_rng(int(digest(problem.text)[:8], 16))
    return Memory(
        problem,
        rng.normal(size=(20, HIDDEN)).astype(np.float32),
        {kind: engine.key(problem, kind) for kind in ("input", "kv")},
        MODEL,
        "fake-model",
        first,
        traces,
        steps,
        min(3, len(steps)),
        {k: getattr(engine.settings, k) for k in ("learning_rate", "steps", "init_text")},
        created,
    )


def fill_bank(engine: FakeEngine, problems: list[Problem]) -> None:
    """Memories of these problems, with some history."""
    for i, problem in enumerate(problems):
        records = list(engine.sides(problem.unlabelled(), ("zero_shot",)))
        traces, votes = (
            [r for r in records if isinstance(r, Trace)],
            [r for r in records if isinstance(r, Vote)],
        )
        steps = tuple(fake_step(n, 5, votes[-1], problem.id) for n in range(1, 7))
        engine.bank.put(
            fake_memory(
                engine,
                problem.unlabelled(),
                tuple(traces),
                votes[-1],
                steps,
                f"2026-01-{1 + i % 28:02d}T10:00:00+00:00",
            )
        )


def main() -> None:
    from latentmem.ui import build, launch_options
    from latentmem.ui.hosting import structured_log
    from latentmem.ui.panels import stream
    from latentmem.ui.session import EXAMPLES, load_examples

    from .evaluation_samples import fake_cast

    stream.enter_systems = fake_cast
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--pace", type=float, default=0.02)
    parser.add_argument("--memories", type=int, default=60)
    parser.add_argument("--cold", action="store_true", help="the model has to be loaded first")
    parser.add_argument(
        "--bank",
        default="",
        help="a file that keeps the memories: made once, for very many of them",
    )
    args = parser.parse_args()
    # LATENTMEM_HOSTED and the other settings hold here, too
    engine = FakeEngine(Settings(rollouts=8, steps=5), pace=args.pace, ready=not args.cold)
    if engine.settings.hosted:
        structured_log()
    if args.bank:
        engine.bank = many(engine, args.bank, args.memories)
    else:
        fill_bank(engine, list(load_examples(EXAMPLES).values())[: args.memories])
        history(engine.bank)
    build(engine).launch(server_name="127.0.0.1", server_port=args.port, **launch_options(engine))


if __name__ == "__main__":
    main()
