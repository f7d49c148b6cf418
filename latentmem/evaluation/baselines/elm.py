"""elm: experiential latent memories, online. Every answered problem may leave a soft prompt, and
the nearest memory is tried."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import get_args

import torch

from ...bank import Bank
from ...files import read_json, write_json
from ...method.rollouts import seed_for
from ...method.routing import chosen, disagree, route, score
from ...records import Hit, KeyKind, Problem, Record, Route, VerifierName
from ..results import AnswerMode, Cost, Reply
from .base import BaseSystem, Key, blank
from .sampler import Ask, Sampled, Sampler
from .teacher import Teacher, TeacherResult

# ---------- What every verifier says about a disagreement, to compute each one's accuracy later.


def all_scores(
    sampler: Sampler, problem: Problem, sides: Mapping[str, Sampled], paid: VerifierName
) -> tuple[dict[str, dict[str, float]], Cost]:
    """Verifier -> side -> score, and the cost of the one that routes, `paid`. The other scores are
    for the record.

    Both sides have an answer. Vote share and self-certainty come with the traces and cost nothing.
    """
    scores, cost = {}, Cost()
    for name in get_args(VerifierName):
        began = time.perf_counter()
        scores[name] = {
            side: score(name, sampler.model, problem, s.traces, s.vote) for side, s in sides.items()
        }
        if name == paid == "judge":
            asked = len(sampler.model.render([{"role": "user", "content": problem.text}]))
            won = [t for s in sides.values() for t in s.traces if t.row in s.vote.clusters[0].rows]
            read = len(won) * asked + sum(t.tokens for t in won)
            cost = Cost(0, read, time.perf_counter() - began)
    return scores, cost


NONE = "No memory is as near as the threshold asks."


class Elm(BaseSystem):
    """Answers alone and with the nearest memory, and routes. `kind`: what retrieval compares.

    Systems with the same `teacher` learn the same memories, which are distilled once.
    """

    def __init__(
        self,
        sampler: Sampler,
        teacher: Teacher,
        key: Key,
        name: str = "elm",
        *,
        kind: KeyKind = "input",
        min_similarity: float = 0.25,
        verifier: VerifierName = "vote_share",
    ) -> None:
        super().__init__(name, sampler)
        self.teacher, self.key, self.kind, self.min_similarity = teacher, key, kind, min_similarity
        self.verifier, self.bank, self.ids = verifier, Bank(":memory:"), []

    # Learn

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record]:
        for item in self.teacher.learn([blank(p) for p in problems]):
            if not isinstance(item, TeacherResult):
                yield item
                continue
            self.spent += item.cost
            if item.distilled.memory is not None:
                ident = self.bank.put(item.distilled.memory)
                if ident not in self.ids:
                    self.ids.append(ident)
            yield replace(item.distilled, kept=item.distilled.memory is not None)

    def save(self, folder: Path) -> None:
        """Write the memories, then which of them count: a kill in between confuses none."""
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
            with Bank(folder / "bank.sqlite") as bank:  # an older bank gets its new tables
                for ident in self.ids:
                    self.bank.put(bank.get(ident))

    # Answer

    def find(self, problem: Problem) -> Hit | None:
        """The memory to try."""
        if not self.ids:
            return None
        key, model = self.key(problem, self.kind), self.teacher.model.fingerprint
        hits = self.bank.search(key, kind=self.kind, k=1, model=model)
        return hits[0] if hits and hits[0].similarity >= self.min_similarity else None

    def with_memory(self, asked: Sequence[tuple[Problem, Hit]], mode: AnswerMode) -> list[Sampled]:
        """Sample each problem with its memory."""
        softs = {h.memory_id: self.tensor(h.memory_id) for _, h in asked}
        asks = [Ask(p, softs[h.memory_id], side="memory") for p, h in asked]
        return self.sampler.sample(asks, mode)

    def tensor(self, ident: str) -> torch.Tensor:
        return torch.from_numpy(self.bank.get(ident).soft_prompt.copy())

    def sides(
        self, problems: Sequence[Problem], hits: Sequence[Hit | None], mode: AnswerMode, alone: bool
    ) -> list[dict[str, Sampled]]:
        """Side -> what was sampled, for each problem: the memory's where there is a memory, the
        model's own where there is none or `alone` asks for both."""
        found: list[dict[str, Sampled]] = [{} for _ in problems]
        bare = [i for i, hit in enumerate(hits) if alone or hit is None]
        own = self.sampler.sample([Ask(problems[i]) for i in bare], mode)
        for i, sampled in zip(bare, own, strict=True):
            found[i]["zero_shot"] = sampled
        tried = [i for i, hit in enumerate(hits) if hit is not None]
        helped = self.with_memory([(problems[i], hits[i]) for i in tried], mode)
        for i, sampled in zip(tried, helped, strict=True):
            found[i]["memory"] = sampled
        return found

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        hits = [self.find(p) for p in problems]
        by = chosen(self.verifier, mode.traces)
        both = self.sides(problems, hits, mode, True)
        for problem, hit, sides in zip(problems, hits, both, strict=True):
            alone, helped = (s and s.vote for s in map(sides.get, ("zero_shot", "memory")))
            scores, extra = {}, Cost()
            if disagree(alone, helped):
                scores, extra = all_scores(self.sampler, problem, sides, by)
            way = route(alone, helped, scores.get(by), verifier=by, skip_reason=NONE)
            yield self.reply_with(problem, mode, sides, hit, way, extra, scores)

    def reply_with(
        self,
        problem: Problem,
        mode: AnswerMode,
        sides: dict[str, Sampled],
        hit: Hit | None,
        way: Route,
        extra: Cost | None = None,
        scores: dict[str, dict[str, float]] | None = None,
    ) -> Reply:
        """The reply that a route gives."""
        cost = sum((s.cost for s in sides.values()), extra or Cost())
        return Reply(
            problem.id,
            self.name,
            mode.name,
            way.answer,
            {side: s.vote for side, s in sides.items()},
            tuple(t for s in sides.values() for t in s.traces),
            cost,
            hit,
            way,
            hit is not None,
            scores or {},
        )


# ---------- elm_lora, an ablation: a low-rank adapter for each problem in place of a soft prompt.


class ElmLora(Elm):
    """Problems with the same adapter share a batch."""

    def with_memory(self, asked: Sequence[tuple[Problem, Hit]], mode: AnswerMode) -> list[Sampled]:
        found: dict[int, Sampled] = {}
        for ident in dict.fromkeys(h.memory_id for _, h in asked):
            lora = self.teacher.model
            model = lora.adapted(self.tensor(ident), f"{lora.fingerprint}/{ident}")
            mine = [i for i, (_, h) in enumerate(asked) if h.memory_id == ident]
            asks = [Ask(asked[i][0], side="memory") for i in mine]
            found.update(zip(mine, self.sampler.of(model).sample(asks, mode), strict=True))
        return [found[i] for i in range(len(asked))]


# ---------- elm_unrouted: the memory always answers. Shows memories without the router's shield.


class ElmUnrouted(Elm):
    """Samples one side, the memory's where one is near enough, so it costs half of `elm`."""

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        hits = [self.find(p) for p in problems]
        one = self.sides(problems, hits, mode, False)
        for problem, hit, sides in zip(problems, hits, one, strict=True):
            ((side, sampled),) = sides.items()
            answer = sampled.vote.label
            reason = "The memory answers, without a comparison." if hit else NONE
            way = Route(side if answer is not None else None, answer, False, reason)
            yield self.reply_with(problem, mode, sides, hit, way)


# ---------- random_memory, a lower control: a random memory in place of the nearest.

DRAW = -1  # stands for the step in the seed of the choice: no rollout has it


def another(elm: Elm, problem: Problem, nearest: Hit | None) -> Hit | None:
    """A memory drawn by (seed, problem), all equally likely; None where elm tries none."""
    if nearest is None:
        return None
    ident = elm.ids[seed_for(elm.sampler.seed, problem.id, DRAW, len(elm.ids)) % len(elm.ids)]
    memory = elm.bank.get(ident)
    return Hit(ident, memory.name, float(elm.key(problem, elm.kind) @ memory.keys[elm.kind]), 1)


class RandomMemory(Elm):
    """Routed, like elm."""

    def find(self, problem: Problem) -> Hit | None:
        return another(self, problem, super().find(problem))


class RandomUnrouted(ElmUnrouted):
    """Unrouted, like elm_unrouted."""

    def find(self, problem: Problem) -> Hit | None:
        return another(self, problem, super().find(problem))


# ---------- untrained_routed, a control: what routing between two answers gives by itself.


class UntrainedRouted(Elm):
    """Does what elm does with the soft prompt before training in place of a memory.

    What elm gains over this system comes from training; what this one gains comes from a second,
    different try.
    """

    def find(self, problem: Problem) -> Hit | None:
        return None

    def sides(
        self, problems: Sequence[Problem], hits: Sequence[Hit | None], mode: AnswerMode, alone: bool
    ) -> list[dict[str, Sampled]]:
        recipe = self.teacher.recipe
        soft = self.sampler.model.text_prompt(recipe.init_text, recipe.virtual_tokens)
        found = super().sides(problems, hits, mode, alone)
        tried = self.sampler.sample([Ask(p, soft, side="memory") for p in problems], mode)
        for sides, sampled in zip(found, tried, strict=True):
            sides["memory"] = sampled
        return found
