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
from ...method.distillation import Recipe
from ...method.rollouts import seed_for
from ...method.routing import chosen, disagree, route, score
from ...records import Hit, KeyKind, Problem, Record, Route, VerifierName
from ..results import AnswerMode, Cost, Reply
from .base import BaseSystem, Key, blank
from .sampler import Ask, Sampled, Sampler
from .teacher import Teacher, TeacherResult
from .weight_training import LoraModel

# ---------- What every verifier says about a disagreement, to compute each one's accuracy later.

VERIFIERS: tuple[VerifierName, ...] = get_args(VerifierName)


def all_scores(
    sampler: Sampler,
    problem: Problem,
    sides: Mapping[str, Sampled],
    verifiers: Sequence[VerifierName],
    paid: VerifierName,
) -> tuple[dict[str, dict[str, float]], Cost]:
    """Verifier -> side -> score, and the cost of the one that routes, `paid`. The other scores are
    for the record.

    Both sides have an answer. Vote share and self-certainty come with the traces and cost nothing.
    """
    scores, cost = {}, Cost()
    for name in dict.fromkeys([*verifiers, paid]):
        began = time.perf_counter()
        scores[name] = {
            side: score(name, sampler.model, problem, s.traces, s.vote) for side, s in sides.items()
        }
        if name == paid == "judge":
            read = sum(s.vote.clusters[0].size for s in sides.values()) * len(
                sampler.model.render([{"role": "user", "content": problem.text}])
            ) + sum(
                t.tokens
                for s in sides.values()
                for t in s.traces
                if t.row in s.vote.clusters[0].rows
            )
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
        verifiers: Sequence[VerifierName] = VERIFIERS,
    ) -> None:
        super().__init__(name, sampler)
        self.teacher, self.key, self.kind, self.min_similarity = teacher, key, kind, min_similarity
        self.verifier, self.verifiers = verifier, verifiers
        self.bank, self.ids = Bank(":memory:"), []

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
        """Write the memories, then which of them count: a kill in between loses the newest and
        confuses none."""
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
        hits = self.bank.search(
            self.key(problem, self.kind), kind=self.kind, k=1, model=self.teacher.model.fingerprint
        )
        return hits[0] if hits and hits[0].similarity >= self.min_similarity else None

    def with_memory(self, asked: Sequence[tuple[Problem, Hit]], mode: AnswerMode) -> list[Sampled]:
        """Sample each problem with its memory."""
        import torch

        softs = {
            ident: torch.from_numpy(self.bank.get(ident).soft_prompt.copy())
            for ident in dict.fromkeys(h.memory_id for _, h in asked)
        }
        return self.sampler.sample(
            [Ask(p, softs[h.memory_id], side="memory") for p, h in asked], mode
        )

    def sides(
        self, problems: Sequence[Problem], hits: Sequence[Hit | None], mode: AnswerMode, alone: bool
    ) -> list[dict[str, Sampled]]:
        """Side -> what was sampled, for each problem: the memory's where there is a memory, the
        model's own where there is none or `alone` asks for both."""
        found: list[dict[str, Sampled]] = [{} for _ in problems]
        bare = [i for i, hit in enumerate(hits) if alone or hit is None]
        for i, sampled in zip(
            bare, self.sampler.sample([Ask(problems[i]) for i in bare], mode), strict=True
        ):
            found[i]["zero_shot"] = sampled
        tried = [i for i, hit in enumerate(hits) if hit is not None]
        for i, sampled in zip(
            tried, self.with_memory([(problems[i], hits[i]) for i in tried], mode), strict=True
        ):
            found[i]["memory"] = sampled
        return found

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        hits = [self.find(p) for p in problems]
        for problem, hit, sides in zip(
            problems, hits, self.sides(problems, hits, mode, True), strict=True
        ):
            votes = {side: s.vote for side, s in sides.items()}
            scores, extra, by = {}, Cost(), chosen(self.verifier, mode.traces)
            if disagree(votes["zero_shot"], votes.get("memory")):
                scores, extra = all_scores(self.sampler, problem, sides, self.verifiers, by)
            way = route(
                votes["zero_shot"],
                votes.get("memory"),
                scores.get(by),
                verifier=by,
                skip_reason=NONE,
            )
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

# a usual rate for adapters; at the soft prompt's 1e-3 a step changes the model ten times as much
LEARNING_RATE = 1e-4


def lora_teacher(
    sampler: Sampler,
    recipe: Recipe,
    key: Key,
    folder: Path | None = None,
    *,
    rank: int = 8,
    learning_rate: float = LEARNING_RATE,
    group: int | None = None,
) -> Teacher:
    """The same gate, rewards and choice of the best step; memories hold adapters and no virtual
    tokens."""
    model = LoraModel(sampler.model, rank)
    return Teacher(
        sampler,
        replace(recipe, learning_rate=learning_rate, virtual_tokens=0),
        key,
        folder,
        name="lora",
        model=model,
        gradient=model.gradient,
        group=group,
    )


class ElmLora(Elm):
    """Problems with the same adapter share a batch."""

    def with_memory(self, asked: Sequence[tuple[Problem, Hit]], mode: AnswerMode) -> list[Sampled]:
        found: dict[int, Sampled] = {}
        for ident in dict.fromkeys(h.memory_id for _, h in asked):
            adapter = torch.from_numpy(self.bank.get(ident).soft_prompt.copy())
            model = self.teacher.model.adapted(adapter, f"{self.teacher.model.fingerprint}/{ident}")
            mine = [i for i, (_, h) in enumerate(asked) if h.memory_id == ident]
            asks = [Ask(asked[i][0], side="memory") for i in mine]
            found.update(zip(mine, self.sampler.of(model).sample(asks, mode), strict=True))
        return [found[i] for i in range(len(asked))]


# ---------- elm_unrouted: the memory always answers. Shows memories without the router's shield.


class ElmUnrouted(Elm):
    """Samples one side only, with the memory where one is near enough and else alone, so it costs
    half of `elm`."""

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        hits = [self.find(p) for p in problems]
        for problem, hit, sides in zip(
            problems, hits, self.sides(problems, hits, mode, False), strict=True
        ):
            ((side, sampled),) = sides.items()
            answer = sampled.vote.label
            reason = "The memory answers, without a comparison." if hit else NONE
            way = Route(side if answer is not None else None, answer, False, reason)
            yield self.reply_with(problem, mode, sides, hit, way)


# ---------- random_memory, a lower control: a random memory in place of the nearest.

DRAW = -1  # stands for the step in the seed of the choice: no rollout has it


def another(elm: Elm, problem: Problem, nearest: Hit | None) -> Hit | None:
    """A memory drawn by (seed, problem), each equally likely; None where elm tries none, so that
    coverage is the same."""
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
        for sides, sampled in zip(
            found,
            self.sampler.sample([Ask(p, soft, side="memory") for p in problems], mode),
            strict=True,
        ):
            sides["memory"] = sampled
        return found


# ---------- format_only, a control: rewarded for a boxed answer at the end, right or wrong.


def format_teacher(
    sampler: Sampler, recipe: Recipe, key: Key, folder: Path | None = None, group: int | None = None
) -> Teacher:
    """The teacher of the control: the same gate on the same first votes, another reward, which also
    chooses the best step."""
    return Teacher(sampler, recipe, key, folder, name="format", reward="boxed", group=group)
