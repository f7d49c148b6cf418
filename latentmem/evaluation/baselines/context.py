"""In-context learning: a system finds a past problem and puts it into the context. Systems differ
in what they keep of it.

icl_raw keeps the trace of the majority. The systems built on it (`icl_refined`, `reasoning_bank`,
`lag`) keep something else, or show it differently.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ...files import read_json, write_json
from ...method.prompts import (
    lesson_messages,
    refine_messages,
    strategies_messages,
    strategy_messages,
    turn_messages,
)
from ...records import Distilled, Hit, KeyKind, Problem, Record
from ..results import ONE, VOTE, AnswerMode, Cost, Reply
from .base import BaseSystem, Key, blank
from .sampler import Ask, Sampled, Sampler

# ---------- Past problems with a text each, found by the similarity of their keys.


@dataclass(frozen=True, eq=False)
class Experience:
    """A past problem, what the system keeps of it, and its key [d]."""

    problem: Problem
    text: str
    key: np.ndarray

    @property
    def name(self) -> str:
        words = " ".join(self.problem.text.split())
        return words if len(words) <= 48 else words[:47].rsplit(" ", 1)[0] + "…"


class Experiences:
    """A list of experiences; the nearest by cosine similarity is found, the earliest of equals."""

    def __init__(self, key: Key, kind: KeyKind = "input", min_similarity: float = 0.25) -> None:
        self._key, self.kind, self.min_similarity = key, kind, min_similarity
        self.all: list[Experience] = []

    def add(self, problem: Problem, text: str) -> None:
        self.all.append(Experience(problem, text, self._key(problem, self.kind)))

    def nearest(self, problem: Problem) -> tuple[Hit, Experience] | None:
        """The most similar experience; None if none reaches the threshold."""
        if not self.all:
            return None
        similarities = np.stack([e.key for e in self.all]) @ self._key(problem, self.kind)
        order = np.argsort(-similarities, kind="stable")
        best, similarity = self.all[order[0]], float(similarities[order[0]])
        if similarity < self.min_similarity:
            return None
        margin = similarity - float(similarities[order[1]]) if len(order) > 1 else None
        return Hit(best.problem.id, best.name, similarity, 1, margin), best

    def save(self, folder: Path, spent: Cost) -> None:
        """Replace what the folder holds."""
        kept = []
        for e in self.all:
            past = {"id": e.problem.id, "text": e.problem.text, "source": e.problem.source}
            kept.append(past | {"kept": e.text, "key": e.key.tolist()})
        write_json(folder / "experiences.json", {"spent": asdict(spent), "experiences": kept})

    def load(self, folder: Path) -> Cost:
        """Replace the experiences by what the folder holds; returns what learning it had cost."""
        data = read_json(folder / "experiences.json") or {"spent": {}, "experiences": []}
        self.all = []
        for e in data["experiences"]:
            past = Problem(e["text"], e["id"], None, e["source"])
            self.all.append(Experience(past, e["kept"], np.array(e["key"], np.float32)))
        return Cost(**data["spent"])


class IclRaw(BaseSystem):
    """The nearest past problem and its raw majority trace, as the turn before this one."""

    def __init__(
        self,
        sampler: Sampler,
        key: Key,
        name: str = "icl_raw",
        *,
        kind: KeyKind = "input",
        min_similarity: float = 0.25,
        mode: AnswerMode = VOTE,
    ) -> None:
        super().__init__(name, sampler)
        self.past, self.mode = Experiences(key, kind, min_similarity), mode

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        """Vote on the problems, with zero_shot's rollouts, and keep those that have an answer."""
        problems = [blank(p) for p in problems]
        voted = self.sampler.sample([Ask(p) for p in problems], self.mode)
        for sampled in voted:
            self.spent += sampled.cost
        fit = [(p, s) for p, s in zip(problems, voted, strict=True) if not s.vote.abstained]
        texts = dict(zip((p.id for p, _ in fit), self.keep(fit), strict=True))
        nothing = "No trace finished with a boxed answer, so nothing was kept."
        for problem in problems:
            if text := texts.get(problem.id):
                self.past.add(problem, text)
            reason = "Kept in the context's store." if text else nothing
            yield Distilled(problem.id, None, reason, kept=bool(text))

    def keep(self, voted: Sequence[tuple[Problem, Sampled]]) -> list[str]:
        """What is kept of each problem, given its traces and vote; '' keeps nothing."""
        return [majority_text(s) for _, s in voted]

    def messages(self, past: Experience, problem: Problem) -> list[dict[str, str]]:
        """The chat that asks for a solution with the past in front."""
        return turn_messages(past.problem.text, past.text, problem.text)

    def ask(self, past: Experience, problem: Problem) -> Ask:
        return Ask(problem, messages=self.messages(past, problem), side="memory")

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        asks, hits = [], []
        for problem in (blank(p) for p in problems):
            found = self.past.nearest(problem)
            ask = self.ask(found[1], problem) if found else None
            # else the past is too long for the context
            fits = ask is not None and self.sampler.fits(ask)
            asks.append(ask if fits else Ask(problem))
            hits.append(found[0] if fits else None)
        for ask, hit, sampled in zip(asks, hits, self.sampler.sample(asks, mode), strict=True):
            yield self.one_side(ask.problem, mode, sampled, hit)

    def save(self, folder: Path) -> None:
        self.past.save(folder, self.spent)

    def load(self, folder: Path) -> None:
        self.spent = self.past.load(folder)


def majority_text(sampled: Sampled) -> str:
    """The earliest trace of the winning cluster."""
    first = sampled.vote.clusters[0].rows[0]
    return next(t.text for t in sampled.traces if t.row == first)


# ---------- icl_refined: the model first rewrites its own trace into a lesson.


class IclRefined(IclRaw):
    """Keeps the lesson, written greedily; it stands before the new problem in the same turn."""

    def keep(self, voted: Sequence[tuple[Problem, Sampled]]) -> list[str]:
        asks = [Ask(p, messages=refine_messages(p.text, majority_text(s))) for p, s in voted]
        return self.written(asks)

    def written(self, asks: Sequence[Ask]) -> list[str]:
        """What the model writes greedily, at its cost; '' where the chat exceeds the context."""
        fitting = [a for a in asks if self.sampler.fits(a)]
        lessons = dict(zip(map(id, fitting), self.sampler.sample(fitting, ONE), strict=True))
        for lesson in lessons.values():
            self.spent += lesson.cost
        return [lessons[id(a)].traces[0].text.strip() if id(a) in lessons else "" for a in asks]

    def messages(self, past: Experience, problem: Problem) -> list[dict[str, str]]:
        return lesson_messages(past.problem.text, past.text, problem.text)


# ---------- reasoning_bank: strategies in words, distilled from agreeing and disagreeing traces
# (ReasoningBank, arXiv 2509.25140).

MOST = 3
FIELD = re.compile(r"^[\s#*\-\d.)]*(title|description|content)\W*?:[\s*_]*(.*)$", re.IGNORECASE)


def parse(text: str) -> list[str]:
    """The strategies in a text of the model, at most three, without those that have no content.

    A small model often ignores the form: then its whole text is one strategy.
    """
    items: list[dict[str, str]] = []
    name = ""
    for line in text.splitlines():
        if found := FIELD.match(line):
            name = found[1].lower()
            if not items or name == "title" or name in items[-1]:
                items.append({})
            items[-1][name] = found[2].strip(" *_")
        elif name and line.strip():
            items[-1][name] = f"{items[-1][name]} {line.strip()}".strip()
    if not items and text.strip():
        items = [{"title": "What was learnt", "content": text.strip()}]
    return [
        "\n".join(f"{n.title()}: {i.get(n, '')}" for n in ("title", "description", "content"))
        for i in items
        if i.get("content")
    ][:MOST]


class ReasoningBank(IclRefined):
    """Keeps the strategies of each problem and shows those of the nearest."""

    def keep(self, voted: Sequence[tuple[Problem, Sampled]]) -> list[str]:
        asks = [
            Ask(p, messages=strategy_messages(p.text, majority_text(s), other_text(s)))
            for p, s in voted
        ]
        return ["\n\n".join(parse(text)) for text in self.written(asks)]

    def messages(self, past: Experience, problem: Problem) -> list[dict[str, str]]:
        return strategies_messages(past.text, problem.text)


def other_text(sampled: Sampled) -> str | None:
    """The earliest trace that disagrees with the majority, with an answer if one has; or None."""
    winners = set(sampled.vote.clusters[0].rows)
    others = sorted(
        (t for t in sampled.traces if t.row not in winners), key=lambda t: (not t.votes, t.row)
    )
    return others[0].text if others else None


# ---------- lag: reuses the stored keys and values of a past problem and trace (arXiv 2505.14398).


class Lag(IclRaw):
    """As icl_raw, but the tokens of the past are recalled and not read."""

    def ask(self, past: Experience, problem: Problem) -> Ask:
        ask = super().ask(past, problem)
        # What the past's chat has in common with another one's is stored; with this one's, it can
        # be reused.
        stored = self.sampler.prompt(
            Ask(problem, messages=turn_messages(past.problem.text, past.text, "?"))
        )
        return replace(ask, recalled=common(stored, self.sampler.prompt(ask)))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two prompts share at their beginning."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )
