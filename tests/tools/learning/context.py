"""Context distillation: the frozen model with some of its own vote-winning attempts in context teaches
the model that has a memory instead, token by token, on other problems of the same families.

Unlike a reference solution of the problem itself (`self_distillation`), what such a context changes is
common to many problems, so that a memory can keep it. No label is used: the vote chooses the attempts
that are shown and those that are learnt from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentmem.method.answers import same_answer
from latentmem.method.grpo import RolloutGroup, policy_gradient
from latentmem.method.prompts import INSTRUCTION, solve_messages
from latentmem.method.rollouts import seed_for
from latentmem.method.voting import vote
from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem, Trace
from tests.tools.learning.families import family
from tests.tools.learning.forms import Form
from tests.tools.learning.plan import Lesson, lessons
from tests.tools.learning.self_distillation import Distillation, divergence, teacher_states
from tests.tools.learning.train import drain, length

Chat = list[dict[str, str]]
SHOWN = 3  # attempts in the teacher's context
MOST = 128  # tokens of a trace that are learnt from
PAID = 2  # traces of the model alone that are learnt from, of each problem
HELD_OUT = 6  # problems of a family from this number on are only watched
CLIP = 2.0  # nats of a token
TOGETHER = 4  # traces of a problem in a batch: they share the reading of its prompt


def attempts(problems: Sequence[Problem], paid: Mapping[str, list[Trace]]) -> list[Lesson]:
    """Of one family the problems with the highest agreement, each with the winning trace of lowest
    entropy that writes no code (a model that cannot run code invents its output)."""
    found = []
    for one in lessons(problems, dict(paid), 4, 8):
        plain = [t for t in one.traces if one.agrees(t) and "```" not in t.text]
        if plain:
            agreement = sum(map(one.agrees, one.traces))
            best = min(plain, key=lambda t: t.entropy or 0.0)
            found.append((agreement, replace(one, traces=[best])))
    return [one for _, one in sorted(found, key=lambda f: -f[0])][:SHOWN]


def in_context(shown: Sequence[Lesson]) -> Callable[[Problem], Chat]:
    """The chat that asks after the attempts at other problems, as turns."""

    def chat(problem: Problem) -> Chat:
        turns: Chat = []
        for one in shown:
            if one.problem.id != problem.id:
                turns += solve_messages(one.problem.text)
                turns.append({"role": "assistant", "content": one.traces[0].text.strip()})
        return turns + solve_messages(problem.text)

    return chat


def without_code(problem: Problem) -> Chat:
    """The control whose instruction has one more sentence."""
    text = f"{problem.text.strip()}\n\nDo not write code. {INSTRUCTION}"
    return [{"role": "user", "content": text}]


@dataclass(frozen=True, eq=False)
class Item:
    """A trace's first tokens, and the teacher's final hidden states [tokens, hidden] there."""

    problem: Problem
    trace: Trace
    states: Tensor


def items(
    base: LanguageModel,
    problem: Problem,
    chat: Chat,
    paid: Sequence[Trace],
    taught: Sequence[Trace],
) -> list[Item]:
    """What a problem gives to learn from: the teacher's traces that agree with the vote over all
    traces, and a few of the model alone."""
    now = vote([*paid, *(replace(t, row=t.row + len(paid)) for t in taught)])
    if not now.clusters:
        return []
    winners = [t for t in taught if t.votes and same_answer(now.label, t.answer)]
    chosen = winners + [t for t in paid if t.finished][:PAID]
    cut = [replace(t, token_ids=t.token_ids[:MOST]) for t in chosen]
    states = teacher_states(base, problem, chat, cut) if cut else []
    blank = problem.unlabelled()
    return [Item(blank, t, s.bfloat16()) for t, s in zip(cut, states, strict=True)]


def halves(given: Sequence[Item], every: int = 3) -> tuple[list[Item], list[Item]]:
    """Those that are learnt from, and one in `every` of those that are only watched."""
    number = {i.problem.id: int(i.problem.id.rsplit("-", 1)[1]) for i in given}
    learnt = [i for i in given if number[i.problem.id] < HELD_OUT]
    return learnt, [i for i in given if number[i.problem.id] >= HELD_OUT][::every]


def apart(base: LanguageModel, form: Form, given: Sequence[Item], temperature: float) -> float:
    """Mean over traces of KL(teacher || model with the memory), in nats a token."""
    model, soft, head, found = form.model(base), form.soft(), base.body.head.weight, []
    for part in grouped(given).values():
        chat = solve_messages(part[0].problem.text)
        student = teacher_states(model, part[0].problem, chat, [i.trace for i in part], soft)
        for states, item in zip(student, part, strict=True):
            pair = (states.to(head.dtype), item.states.to(head.dtype))
            found.append(float(divergence(*pair, head, temperature, "forward").mean()))
    return fmean(found)


def grouped(given: Sequence[Item]) -> dict[str, list[Item]]:
    found: dict[str, list[Item]] = {}
    for item in given:
        found.setdefault(item.problem.id, []).append(item)
    return found


def train(
    base: LanguageModel,
    form: Form,
    given: Sequence[Item],
    *,
    rate: float,
    steps: int,
    batch: int = 16,
    temperature: float = 0.8,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """AdamW on the forward divergence over batches of traces -> what is logged of each step.

    The rate grows over three steps and falls from 60 % of the steps on, to a tenth.
    """
    numbers, before = form.numbers, None
    optimizer = torch.optim.AdamW([numbers], lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    rng = np.random.Generator(np.random.Philox(seed_for(seed, "context", 0, 0)))
    rounds = 1 + steps * batch // len(given)
    order = [one for _ in range(rounds) for one in _shuffled(given, rng)]
    for step in range(steps):
        began, now = time.perf_counter(), order[step * batch : (step + 1) * batch]
        parts = grouped(now).values()
        groups = [
            RolloutGroup(
                part[0].problem,
                form.soft(),
                [i.trace for i in part],
                torch.full((len(part),), 1 / batch),
            )
            for part in parts
        ]
        loss = Distillation([[i.states for i in part] for part in parts], "forward", CLIP)
        model = form.model(base)
        told = sum(drain(policy_gradient(model, groups, temperature, loss=loss)))
        gradient = numbers.grad.flatten().clone()
        cosine = 0.0 if before is None else float(torch.cosine_similarity(gradient, before, dim=0))
        before = gradient
        falling = (steps - step) / (0.4 * steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 3) * min(1.0, max(0.1, falling))
        optimizer.step()
        optimizer.zero_grad()
        yield {
            "step": step + 1,
            "loss": told,
            "norm": float(gradient.norm()),
            "cosine": cosine,
            "shift": length(numbers),
            "seconds": time.perf_counter() - began,
        }


def _shuffled(given: Sequence[Item], rng: np.random.Generator) -> list[Item]:
    """All items in a random order, at most `TOGETHER` of a problem next to each other."""
    chunks = []
    for part in grouped(given).values():
        mixed = [part[i] for i in rng.permutation(len(part))]
        chunks += [mixed[at : at + TOGETHER] for at in range(0, len(mixed), TOGETHER)]
    return [item for i in rng.permutation(len(chunks)) for item in chunks[i]]


def by_family(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(family(problem), []).append(problem)
    return found
