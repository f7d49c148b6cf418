"""The offline rows: one prompt, adapter or model trained on a whole set, a batch a step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ...files import file_errors, read_json, replacing, write_json
from ...method.answers import same_answer
from ...method.distillation import NOT_FINITE, Learner, Recipe, adamw, grpo_step, unanimous
from ...method.grpo import RolloutGroup, policy_gradient
from ...method.rollouts import seed_for
from ...method.voting import gate, majority_rewards
from ...model.language_model import LanguageModel
from ...records import LatentmemError, Problem, Record, Status, Step, Trace, Vote
from ..results import AnswerMode, Cost, Reply, TrainingSchedule
from .base import BaseSystem, blank
from .sampler import Ask, Sampler
from .weight_training import LoraModel, full_body, weight_gradient

# ---------- What an offline row trains: one soft prompt, one low-rank adapter, or all parameters.

DITHERED = 1 << 24  # numbers rounded at a time


# (rows done, rows) on the way, and each group's loss at the end
Losses = Generator[tuple[int, int], None, list[float]]


class OfflineLearner(Learner, Protocol):
    """What an offline row trains, the model to sample with it, and how a loss reaches it."""

    model: LanguageModel

    def gradient(self, _: Any, groups: Sequence[RolloutGroup], temperature: float) -> Losses:
        """Add the groups' gradient to `parameters`. Their `soft` is `self.soft`."""

    def stamp(self) -> None:
        """Give the model a fingerprint of its present weights, before its rollouts are kept."""


class PromptLearner:
    """One soft prompt for the whole set."""

    def __init__(self, model: LanguageModel, recipe: Recipe, learning_rate: float = 1e-3) -> None:
        self.model = model
        self.start = model.text_prompt(recipe.init_text, recipe.virtual_tokens)
        self.soft = torch.nn.Parameter(self.start.clone())
        self.parameters = [self.soft]
        self.optimizer = adamw(self.parameters, learning_rate)

    def gradient(self, _: Any, groups: Sequence[RolloutGroup], temperature: float) -> Losses:
        return (yield from policy_gradient(self.model, groups, temperature))

    def changed(self) -> None:
        """The prompt is an input: the model stays as it is."""

    stamp = changed


class LoraLearner:
    """One low-rank adapter for the whole set."""

    def __init__(self, model: LanguageModel, recipe: Recipe, learning_rate: float = 1e-3) -> None:
        self._lora, self.soft, self.start = LoraModel(model), None, None
        self._adapter = torch.nn.Parameter(self._lora.text_prompt("", 0))
        self.parameters = [self._adapter]
        self.optimizer = adamw(self.parameters, learning_rate)
        self.changed()

    def gradient(self, _: Any, groups: Sequence[RolloutGroup], temperature: float) -> Losses:
        made = partial(self._lora.adapted, self._adapter)
        return (yield from weight_gradient(made, groups, temperature))

    def changed(self) -> None:
        self.model = self._lora.adapted(self._adapter.detach())

    def stamp(self) -> None:
        self.model.fingerprint = f"{self._lora.fingerprint}/{content([self._adapter])}"


class FullLearner:
    """A copy of the model, all of it trained. If the model is not float32, the optimiser works on a
    float32 copy, and the weights are rounded from it so that small steps arrive on average
    (`dithered`)."""

    def __init__(self, model: LanguageModel, recipe: Recipe, learning_rate: float = 1e-3) -> None:
        self._base, self.soft, self.start = model, None, None
        body, self._weights = full_body(model.body)
        self.parameters = [
            w if w.dtype == torch.float32 else torch.nn.Parameter(w.detach().float())
            for w in self._weights
        ]
        self.optimizer = adamw(self.parameters, learning_rate)
        self.model = model.of_body(body)

    def gradient(self, _: Any, groups: Sequence[RolloutGroup], temperature: float) -> Losses:
        losses = yield from weight_gradient(lambda: self.model, groups, temperature)
        for own, weight in zip(self.parameters, self._weights, strict=True):
            if own is not weight and weight.grad is not None:
                more, weight.grad = weight.grad.float(), None
                own.grad = more if own.grad is None else own.grad + more
        return losses

    def changed(self) -> None:
        with torch.no_grad():
            for i, (own, weight) in enumerate(zip(self.parameters, self._weights, strict=True)):
                if own is not weight:
                    dithered(own, weight, i)

    def stamp(self) -> None:
        self.model.fingerprint = f"{self._base.fingerprint}/{content(self._weights)}"


def dithered(long: Tensor, short: Tensor, seed: int) -> None:
    """Round float32 numbers to bfloat16 at random: up with a probability equal to the share of the
    way to the number above.

    Ten steps of 1e-6 move a weight by a tenth of the distance between two bfloat16 numbers. Rounded
    to the nearest, almost nothing learnt would reach the model that samples; rounded at random, its
    mean does. Each place has one fixed random number, so the same numbers always round alike, also
    after a checkpoint.
    """
    if short.dtype != torch.bfloat16:
        short.copy_(long)
        return
    draw = torch.Generator().manual_seed(seed)
    parts = (t.view(-1).split(DITHERED) for t in (long, short))
    for some, out in zip(*parts, strict=True):
        # The upper half of a float32 is a bfloat16. Noise added to the lower half carries into it
        # with the right probability.
        noise = torch.randint(0, 1 << 16, some.shape, generator=draw, dtype=torch.int32)
        bits = (some.view(torch.int32) + noise.to(some.device)) & ~0xFFFF
        out.copy_(bits.view(torch.float32))


def content(tensors: Sequence[Tensor]) -> str:
    """A digest of the numbers, by which the sampler's memory tells models apart."""
    h = hashlib.sha256()
    for tensor in tensors:
        h.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return h.hexdigest()[:32]


# part of the seeds: every offline row meets the problems in one order
ORDER = "the order of a training set"


class Offline(BaseSystem):
    """Trains one learner on a whole set, by majority vote or (`needs_labels`) by the truth, and
    answers with it.

    Each step takes the next `batch` problems of a seeded order, samples `recipe.rollouts` fresh
    traces of each, and takes one gradient step on the mean of their losses. A group of equal
    rewards has no gradient. Majority votes must pass the recipe's gate, as in `distil`; the truth
    needs none. A soft prompt stays within the recipe's `max_shift`. The recipe's `pseudo_label` and
    `keep` do not apply: the labels are each step's, and the last step counts. A fit that was
    stopped begins anew.
    """

    def __init__(
        self,
        name: str,
        sampler: Sampler,
        learner: Callable[[], OfflineLearner],
        recipe: Recipe,
        schedule: TrainingSchedule,
        *,
        labels: bool = False,
    ) -> None:
        super().__init__(name, sampler)
        self.needs_labels, self.recipe, self.schedule = labels, recipe, schedule
        self._make, self._learner = learner, None
        self.done = 0  # steps taken

    @property
    def learner(self) -> OfflineLearner:
        """Made on first use, since all parameters of a model are many."""
        if self._learner is None:
            self._learner = self._make()
        return self._learner

    # Learn
    # ----------------------------------------------------------------------------------------------

    def fit(self, problems: Sequence[Problem]) -> Iterator[Record]:
        given = list(problems) if self.needs_labels else [blank(p) for p in problems]
        self.reset()
        for step in range(1, self.schedule.steps + 1):
            yield from self._step(step, self._turn(given, step))
            self.done = step
        self.learner.optimizer.state.clear()  # twice the parameters' size, and no longer needed

    def reset(self) -> None:
        """Nothing learnt."""
        self._learner = None
        self.done, self.spent = 0, Cost()

    def _turn(self, given: Sequence[Problem], step: int) -> list[Problem]:
        """The problems of a step, all different: the set in a new seeded order each time round."""
        n, size = len(given), min(self.schedule.batch, len(given))
        queue, orders = [], 0
        for _ in range(step):
            if len(queue) < size:
                seed = seed_for(self.sampler.seed, ORDER, orders, 0)
                order = np.random.Generator(np.random.Philox(seed)).permutation(n)
                # What is left of the order before must not come twice in this step: its rollouts
                # would be the same.
                ahead = [i for i in order if i not in queue][: size - len(queue)]
                queue += [*ahead, *(i for i in order if i not in ahead)]
                orders += 1
            turn, queue = queue[:size], queue[size:]
        return [given[i] for i in turn]

    def _step(self, step: int, batch: Sequence[Problem]) -> Iterator[Status | Step]:
        steps, learner = self.schedule.steps, self.learner
        yield Status(f"Step {step} of {steps}: sampling", step - 1, steps)
        for i, record in grpo_step(
            learner.model,
            [blank(p) for p in batch],
            [learner] * len(batch),
            replace(self.recipe, steps=steps, seed=self.sampler.seed),
            step,
            judge=lambda i, group, now: self._judge(batch[i], group, now),
            gradient=learner.gradient,
            together=max(1, self.sampler.rows // self.recipe.rollouts),
        ):
            if isinstance(record, Step):
                passes = 2 if record.note in ("", NOT_FINITE) else 1
                read = self.sampler.length(Ask(batch[i], learner.soft)) * passes
                self.spent += Cost(record.tokens, read, record.seconds)
            if isinstance(record, Status | Step):
                yield record

    def _judge(
        self, problem: Problem, group: Sequence[Trace], now: Vote
    ) -> tuple[tuple[float, ...], str]:
        """1 for a trace that agrees with the majority, or with the truth in the one row that
        learns from it; and why a group takes no part, '' if it does."""
        if self.needs_labels:
            rewards = tuple(float(t.votes and same_answer(problem.answer, t.answer)) for t in group)
        else:
            rewards = majority_rewards(group, now)
        if note := unanimous(rewards):
            return rewards, note
        r = self.recipe
        return rewards, "" if self.needs_labels else gate(now, r.gate_votes, r.gate_lead) or ""

    # Keep
    # ----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the parameters to one file, and its name to offline.json."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        parameters = self.learner.parameters if self.done else ()
        tensors = {f"p{i}": p.detach().cpu().contiguous() for i, p in enumerate(parameters)}
        name = f"step{self.done}.safetensors"
        with file_errors(folder / name, "written"):
            folder.mkdir(parents=True, exist_ok=True)
            # straight to the file: its bytes in memory would take the space twice
            with replacing(folder / name) as part:
                try:
                    save_file(tensors, part)
                except SafetensorError as e:  # raised for a full disk
                    raise OSError(None, str(e)) from None
        about = {"file": name, "done": self.done, "spent": asdict(self.spent)}
        write_json(folder / "offline.json", about)

    def load(self, folder: Path) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.reset()
        data = read_json(folder / "offline.json")
        if data is None:
            return
        try:
            tensors = load_file(folder / data["file"])
        except (OSError, SafetensorError) as e:
            raise LatentmemError(
                f"The checkpoint in {folder} cannot be read ({e}): delete that folder to learn "
                "again."
            ) from None
        self.done, self.spent = data["done"], Cost(**data["spent"])
        if not self.done:
            return
        parameters = self.learner.parameters
        there = {name: t.shape for name, t in tensors.items() if name[0] == "p"}
        if there != {f"p{i}": p.shape for i, p in enumerate(parameters)}:
            raise LatentmemError(
                f"{folder} holds what {self.name} learnt with another model: use that model, or "
                "another folder."
            )
        with torch.no_grad():
            for i, p in enumerate(parameters):
                p.copy_(tensors[f"p{i}"])
        self.learner.changed()

    # Answer
    # ----------------------------------------------------------------------------------------------

    def reply(self, problems: Sequence[Problem], mode: AnswerMode) -> Iterator[Reply]:
        """Answer with what was learnt; before any step, with the untrained start."""
        self.learner.stamp()
        soft = None if self.learner.soft is None else self.learner.soft.detach().clone()
        sampler = self.sampler.of(self.learner.model)
        return self.replies(problems, mode, soft, "memory", sampler)


# ---------- The rows: one soft prompt, with as many virtual tokens and the same start as one memory
# of elm; one low-rank adapter like that of elm_lora; all parameters by majority vote (TTRL, arXiv
# 2504.16084, here with the recipe's gate, so that all rows learn from labels of one quality); all
# parameters with the truth as reward, the upper reference.

LEARNERS: dict[str, tuple[str, Callable[[LanguageModel, Recipe, float], OfflineLearner]]] = {
    "offline_prompt": ("soft", PromptLearner),
    "offline_lora": ("lora", LoraLearner),
    "offline_ttrl": ("full", FullLearner),
    "offline_grpo": ("full", FullLearner),
}


def offline(
    row: str,
    sampler: Sampler,
    recipe: Recipe,
    schedule: TrainingSchedule,
) -> Offline:
    """A row of LEARNERS. Only `offline_grpo` sees labels: its `fit` needs problems with their
    `answer`. Replies never do."""
    made, rate = LEARNERS[row][1], schedule.learning_rate
    labels = row == "offline_grpo"
    learner = partial(made, sampler.model, recipe, rate)
    return Offline(row, sampler, learner, recipe, schedule, labels=labels)
