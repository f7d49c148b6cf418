"""elm: experiential latent memories, online. Every answered problem may leave a soft prompt; the nearest is tried."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from ..bank import Bank
from ..records import Hit, KeyKind, Problem, Record, Route
from ..routing import disagree, route
from ..verifier import VerifierName, chosen
from .base import Cost, Form, Reply
from .log import read_json, write_json
from .row import Key, Row, blank
from .sampler import Ask, Sampled, Sampler
from .scoring import VERIFIERS, all_scores
from .teacher import Taught, Teacher

NONE = "No memory is as near as the threshold asks."


class Elm(Row):
    """Answers alone and with the nearest memory, and routes. `kind`: what retrieval compares.

    Systems that share a `teacher` learn the same memories, and they are distilled once.
    """

    def __init__(self, sampler: Sampler, teacher: Teacher, key: Key, name: str = "elm", *, kind: KeyKind = "input",
                 min_similarity: float = 0.25, verifier: VerifierName = "vote_share",
                 verifiers: Sequence[VerifierName] = VERIFIERS) -> None:
        super().__init__(name, sampler)
        self.teacher, self.key, self.kind, self.min_similarity = teacher, key, kind, min_similarity
        self.verifier, self.verifiers = verifier, verifiers
        self.bank, self.ids = Bank(":memory:"), []

    # Learn ------------------------------------------------------------------------------------------------------

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        for item in self.teacher.learn([blank(p) for p in problems]):
            if not isinstance(item, Taught):
                yield item
                continue
            self.spent += item.cost
            if item.distilled.memory is not None:
                ident = self.bank.put(item.distilled.memory)
                if ident not in self.ids:
                    self.ids.append(ident)
            yield replace(item.distilled, kept=item.distilled.memory is not None)

    def save(self, folder: Path) -> None:
        """The memories first, then which of them count: a kill in between loses the newest and mixes up none."""
        folder.mkdir(parents=True, exist_ok=True)
        with Bank(folder / "bank.sqlite") as bank:
            for ident in self.ids:
                if ident not in bank:
                    bank.put(self.bank.get(ident))
        write_json(folder / "elm.json", {"ids": self.ids, "spent": asdict(self.spent)})

    def load(self, folder: Path) -> None:
        data = read_json(folder / "elm.json") or {"ids": [], "spent": {}}
        self.bank, self.ids, self.spent = Bank(":memory:"), data["ids"], Cost(**data["spent"])
        if self.ids:
            with Bank(folder / "bank.sqlite", read_only=True) as bank:
                for ident in self.ids:
                    self.bank.put(bank.get(ident))

    # Answer -----------------------------------------------------------------------------------------------------

    def find(self, problem: Problem) -> Hit | None:
        """The memory to try."""
        if not self.ids:
            return None
        hits = self.bank.search(self.key(problem, self.kind), kind=self.kind, k=1, model=self.teacher.model.fingerprint)
        return hits[0] if hits and hits[0].similarity >= self.min_similarity else None

    def with_memory(self, asked: Sequence[tuple[Problem, Hit]], form: Form) -> list[Sampled]:
        """Sample each problem with its memory."""
        import torch

        softs = {ident: torch.from_numpy(self.bank.get(ident).soft_prompt.copy())
                 for ident in dict.fromkeys(h.memory_id for _, h in asked)}
        return self.sampler.sample([Ask(p, softs[h.memory_id], side="memory") for p, h in asked], form)

    def sides(self, problems: Sequence[Problem], hits: Sequence[Hit | None], form: Form,
              alone: bool) -> list[dict[str, Sampled]]:
        """Side -> what was sampled, for each problem: the memory's where there is one, the model's own where there is
        none or `alone` asks for both."""
        found: list[dict[str, Sampled]] = [{} for _ in problems]
        bare = [i for i, hit in enumerate(hits) if alone or hit is None]
        for i, sampled in zip(bare, self.sampler.sample([Ask(problems[i]) for i in bare], form), strict=True):
            found[i]["zero_shot"] = sampled
        tried = [i for i, hit in enumerate(hits) if hit is not None]
        for i, sampled in zip(tried, self.with_memory([(problems[i], hits[i]) for i in tried], form), strict=True):
            found[i]["memory"] = sampled
        return found

    def reply(self, problems: Sequence[Problem], form: Form) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        hits = [self.find(p) for p in problems]
        for problem, hit, sides in zip(problems, hits, self.sides(problems, hits, form, True), strict=True):
            votes = {side: s.vote for side, s in sides.items()}
            scores, extra, by = {}, Cost(), chosen(self.verifier, form.traces)
            if disagree(votes["zero_shot"], votes.get("memory")):
                scores, extra = all_scores(self.sampler, problem, sides, self.verifiers, by)
            way = route(votes["zero_shot"], votes.get("memory"), scores.get(by), verifier=by, why_none=NONE)
            yield self.told(problem, form, sides, hit, way, extra, scores)

    def told(self, problem: Problem, form: Form, sides: dict[str, Sampled], hit: Hit | None, way: Route,
             extra: Cost | None = None, scores: dict[str, dict[str, float]] | None = None) -> Reply:
        """The reply that a route gives."""
        cost = sum((s.cost for s in sides.values()), extra or Cost())
        return Reply(problem.id, self.name, form.name, way.answer, {side: s.vote for side, s in sides.items()},
                     tuple(t for s in sides.values() for t in s.traces), cost, hit, way, hit is not None, scores or {})
