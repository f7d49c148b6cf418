"""What is trained and on what: the plan of a run, its lessons, and a memory's file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from latentmem.method.answers import same_answer
from latentmem.method.voting import vote
from latentmem.model.language_model import LanguageModel
from latentmem.records import Problem, Trace
from latentmem.settings import Settings
from tests.tools.learning.adapters import LowRankForm
from tests.tools.learning.forms import Form, KeyValues, LayerVectors, Opening, SoftPrompt


@dataclass(frozen=True)
class Plan:
    """How one memory is trained. Lengths and rates are relative to the scale of the form."""

    form: str = "kv"  # soft, opening, kv, vectors, lora
    loss: str = "contrast"  # winners, losers, contrast, distil, distil_other
    learning_rate: float = 0.5
    steps: int = 24
    batch: int = 4  # problems a step
    traces: int = 8  # of each problem, at most
    warm_up: int = 3
    seed: int = 0
    fresh: bool = False  # sample each step's rollouts with the present memory
    lowest: int = 4  # of eight votes
    highest: int = 7
    clip: float = 0.5  # nats a token, of distillation
    freeze_first: bool = False
    optimizer: str = (
        "normal"  # normal: steps of length learning_rate along the mean gradient; adamw
    )
    momentum: float = 0.5


@dataclass(frozen=True, eq=False)
class Lesson:
    """A problem, the label that its vote gave, and the rollouts that the vote has paid for."""

    problem: Problem
    label: str
    traces: Sequence[Trace]

    def agrees(self, trace: Trace) -> bool:
        return bool(trace.votes and same_answer(self.label, trace.answer))


def lessons(
    problems: Sequence[Problem], traces: dict[str, list[Trace]], lowest: int, highest: int
) -> list[Lesson]:
    """The problems whose majority has `lowest` to `highest` votes and leads by two."""
    found = []
    for problem in problems:
        group = traces.get(problem.id, [])[:8]
        now = vote(group)
        if now.clusters and lowest <= now.clusters[0].size <= highest and now.margin >= 2:
            found.append(Lesson(problem.unlabelled(), now.label, group))
    return found


def made(base: LanguageModel, plan: Plan) -> Form:
    """The untrained form of a plan."""
    if plan.form == "soft":
        return SoftPrompt(base, Settings().init_text, 20, plan.freeze_first)
    return {"kv": KeyValues, "vectors": LayerVectors, "opening": Opening, "lora": LowRankForm}[
        plan.form
    ](base)


def save(form: Form, path: Path, plan: Plan) -> None:
    """The numbers, rounded to bfloat16, with the plan in the header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {"numbers": form.numbers.detach().bfloat16().contiguous()},
        path,
        {"plan": json.dumps(asdict(plan))},
    )


def restore(base: LanguageModel, path: Path, untrained: bool = False) -> Form:
    """What `save` wrote, or what it was before training."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        plan = Plan(**json.loads(file.metadata()["plan"]))
    form = made(base, plan)
    if untrained:
        return form
    with torch.no_grad():
        form.numbers.copy_(load_file(path)["numbers"].float())
    return form
