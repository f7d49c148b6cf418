"""Distillation for the systems that keep memories; what several learn alike is learnt once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bank import Bank
from ...files import Log
from ...method.distillation import Gradient, Lesson, Recipe, Reward
from ...method.grpo import policy_gradient
from ...method.voting import gate
from ...method.winners import learn
from ...records import Distilled, Memory, Problem, Record, Step, digest, from_json, to_json
from ..results import AnswerMode, Cost
from .base import Key
from .sampler import Ask, Sampled, Sampler, computed

if TYPE_CHECKING:
    import numpy as np

    from ...model.language_model import LanguageModel


@dataclass(frozen=True, eq=False)
class TeacherResult:
    """The end of one problem: its distillation and what it cost, the first vote included."""

    distilled: Distilled
    cost: Cost


class Teacher:
    """Turns problems into memories by `distil`, and remembers them in `folder`/`name`.sqlite and
    .jsonl.

    The first votes are the sampler's, so a vote that zero_shot sampled is not sampled again; its
    cost counts all the same. Problems that pass the gate are trained `group` at a time, in order.
    `model` and `gradient` replace the soft prompt by another adapter. The bank's memories carry
    both keys.
    """

    def __init__(
        self,
        sampler: Sampler,
        recipe: Recipe,
        key: Key,
        folder: Path | None = None,
        *,
        name: str = "lessons",
        reward: Reward = "majority",
        model: LanguageModel | None = None,
        gradient: Gradient = policy_gradient,
        group: int | None = None,
    ) -> None:
        self.sampler, self.recipe, self.name, self.reward = sampler, recipe, name, reward
        self._key, self._gradient, self.model = key, gradient, model or sampler.model
        self.group = group or max(1, sampler.rows // recipe.rollouts)
        self._bank = Bank(folder / f"{name}.sqlite" if folder else ":memory:")
        self._log = Log(folder / f"{name}.jsonl" if folder else None)
        self._known: dict[str, dict[str, Any]] = {}
        for line in self._log.read():
            self._known.update(line)

    def learn(self, problems: Sequence[Problem]) -> Iterator[Record | TeacherResult]:
        """Distil problems. Yields `distil`'s records, and a TeacherResult for each problem."""
        r = self.recipe
        mode = AnswerMode("vote", r.rollouts, r.temperature)
        firsts = self.sampler.sample([Ask(p) for p in problems], mode)
        closed, teachable = [], []
        for problem, first in zip(problems, firsts, strict=True):
            shut = gate(first.vote, r.gate_votes, r.gate_lead)
            (closed if shut else teachable).append((problem, first))
        yield from self._group(closed)
        for start in range(0, len(teachable), self.group):
            yield from self._group(teachable[start : start + self.group])

    def _name(self, problem: Problem) -> str:
        about = problem.id, problem.text, problem.source
        how = repr(self.recipe), self.reward, str(self.sampler.seed)
        if self.recipe.recipe != "paper":  # whose lessons were named before there was another
            how = (*how, self.recipe.recipe)
        return digest(*computed(self.model), *about, *how)[:32]

    def _group(self, pairs: Sequence[tuple[Problem, Sampled]]) -> Iterator[Record | TeacherResult]:
        missing = [(p, first) for p, first in pairs if self._name(p) not in self._known]
        if missing:
            lessons: dict[int, Lesson] = {}
            for i, record in learn(
                self.model,
                [p for p, _ in missing],
                [(f.traces, f.vote) for _, f in missing],
                self.recipe,
                reward=self.reward,
                gradient=self._gradient,
            ):
                if isinstance(record, Lesson):
                    lessons[i] = record
                else:
                    yield record
            self._keep([(p, first, lessons[i]) for i, (p, first) in enumerate(missing)])
        for problem, _ in pairs:
            one = self._known[self._name(problem)]
            memory = None
            # with the keys of the present embedder, on which a lesson does not depend
            if one["memory"]:
                memory = replace(self._bank.get(one["memory"]), keys=self._keys(problem))
            steps = from_json(tuple[Step, ...], one["steps"], f"The steps of {problem.id}")
            done = Distilled(problem.id, memory, one["reason"], steps)
            yield TeacherResult(done, Cost(**one["cost"]))

    def _keep(self, done: Sequence[tuple[Problem, Sampled, Lesson]]) -> None:
        """Store the memories, then one line for the group: it is known as a whole or not at all."""
        line = {}
        for problem, first, lesson in done:
            memory = None
            if lesson.soft is not None:
                memory = self._bank.put(self._memory(problem, first, lesson))
            steps = f"[{','.join(to_json(s) for s in lesson.steps)}]"
            line[self._name(problem)] = {
                "memory": memory,
                "reason": lesson.reason,
                "steps": steps,
                "cost": asdict(self._cost(problem, first, lesson)),
            }
        self._log.append(line)
        self._known.update(line)

    def _memory(self, problem: Problem, first: Sampled, lesson: Lesson) -> Memory:
        return Memory(
            problem=problem,
            soft_prompt=lesson.soft,
            keys=self._keys(problem),
            model=self.model.fingerprint,
            model_name=self.model.name,
            vote=first.vote,
            traces=first.traces,
            steps=lesson.steps,
            best_step=lesson.best_step,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            settings=asdict(self.recipe) | {"reward": self.reward},
        )

    def _keys(self, problem: Problem) -> dict[str, np.ndarray]:
        return {k: self._key(problem, k) for k in ("input", "kv")}

    def _cost(self, problem: Problem, first: Sampled, lesson: Lesson) -> Cost:
        """The first vote, all rollouts, and the prompt read to sample and once more to train."""
        prompt = first.cost.read + self.recipe.virtual_tokens
        cost = first.cost
        for step in lesson.steps:
            cost += Cost(step.tokens, prompt * (2 if step.grad_norm > 0 else 1), step.seconds)
        return cost
