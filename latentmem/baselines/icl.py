"""In-context learning: a past problem is found and put into the context. What is kept of it differs by row.

icl_raw keeps the trace of the majority as it is. The rows built on it (`icl_refined`, `reasoning_bank`, `lag`) keep
something else, or show it differently.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..prompts import turn_messages
from ..records import Distilled, KeyKind, Problem, Record
from .base import VOTE, Form, Reply
from .experiences import Experience, Experiences
from .row import Key, Row, blank
from .sampler import Ask, Sampled, Sampler


class IclRaw(Row):
    """The nearest past problem and its raw majority trace, as the turn before this one."""

    def __init__(self, sampler: Sampler, key: Key, name: str = "icl_raw", *, kind: KeyKind = "input",
                 min_similarity: float = 0.25, form: Form = VOTE) -> None:
        super().__init__(name, sampler)
        self.past, self.form = Experiences(key, kind, min_similarity), form

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        """Vote on the problems (with the rollouts that zero_shot's vote shares) and keep those that have an answer."""
        problems = [blank(p) for p in problems]
        voted = self.sampler.sample([Ask(p) for p in problems], self.form)
        for sampled in voted:
            self.spent += sampled.cost
        fit = [(p, s) for p, s in zip(problems, voted, strict=True) if not s.vote.abstained]
        texts = dict(zip((p.id for p, _ in fit), self.keep(fit), strict=True))
        for problem in problems:
            text = texts.get(problem.id)
            if text:
                self.past.add(problem, text)
            yield Distilled(problem.id, None, "Kept in the context's store." if text else
                            "No trace finished with a boxed answer, so nothing was kept.", kept=bool(text))

    def keep(self, voted: Sequence[tuple[Problem, Sampled]]) -> list[str]:
        """What is kept of each problem, given its traces and vote; '' keeps nothing."""
        return [majority_text(s) for _, s in voted]

    def messages(self, past: Experience, problem: Problem) -> list[dict[str, str]]:
        """The chat that asks for a solution with the past in front."""
        return turn_messages(past.problem.text, past.text, problem.text)

    def ask(self, past: Experience, problem: Problem) -> Ask:
        return Ask(problem, messages=self.messages(past, problem), side="memory")

    def reply(self, problems: Sequence[Problem], form: Form) -> Iterator[Reply]:
        asks, hits = [], []
        for problem in (blank(p) for p in problems):
            found = self.past.nearest(problem)
            ask = self.ask(found[1], problem) if found else None
            fits = ask is not None and self.sampler.fits(ask)  # else the past is too long for the context
            asks.append(ask if fits else Ask(problem))
            hits.append(found[0] if fits else None)
        for ask, hit, sampled in zip(asks, hits, self.sampler.sample(asks, form), strict=True):
            yield self.one_side(ask.problem, form, sampled, hit)

    def save(self, folder: Path) -> None:
        self.past.save(folder, self.spent)

    def load(self, folder: Path) -> None:
        self.spent = self.past.load(folder)


def majority_text(sampled: Sampled) -> str:
    """The earliest trace of the winning cluster."""
    first = sampled.vote.clusters[0].rows[0]
    return next(t.text for t in sampled.traces if t.row == first)
