"""Problems -> layer vectors, from the winners of their own vote: the recipe `fast`.

The attempts that the vote has paid for already teach: those that gave the majority's answer become
likelier (rejection sampling fine-tuning, arXiv 2308.01825, with the vote in place of
a known answer). Nothing is sampled until the end. A vector for each layer can take up a whole
attempt in ten steps, which a soft prompt in front of the chat cannot
(assets/results/learning).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from ..model.language_model import LanguageModel
from ..records import Problem, Status, Step, Trace, Vote
from .answers import same_answer
from .distillation import (
    NOT_FINITE,
    STOPPED,
    Gradient,
    Lesson,
    Progress,
    Recipe,
    Reward,
    distil,
    followed,
)
from .grpo import RolloutGroup, policy_gradient
from .rollouts import Job, sample
from .voting import gate, vote

MOST = 3  # winners that teach: the first ones, by row
# AdamW's rate in units of `LanguageModel.layer_scale`; it grows over the first WARM_UP steps and
# falls to 0 over the second half.
RATE, WARM_UP = 0.04, 4


def learn(
    model: LanguageModel,
    problems: Sequence[Problem],
    firsts: Sequence[tuple[Sequence[Trace], Vote]],
    recipe: Recipe,
    *,
    reward: Reward = "majority",
    gradient: Gradient = policy_gradient,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Progress | Lesson]]:
    """Train one memory per problem by the recipe that is asked for. Yields what `distil` yields.

    Another reward or gradient than the usual ones is that of a control, which only GRPO has.
    """
    if recipe.recipe == "paper" or reward != "majority" or gradient is not policy_gradient:
        yield from distil(
            model, problems, firsts, recipe, reward=reward, gradient=gradient, enough=enough
        )
        return
    for i, (problem, (traces, first)) in enumerate(zip(problems, firsts, strict=True)):
        winners = [t for t in traces if t.votes and same_answer(first.label, t.answer)]
        if why := gate(first, recipe.gate_votes, recipe.gate_lead):
            yield i, Lesson(None, why, ())
            continue
        pupil = _Pupil(model, i, problem.unlabelled(), first, winners, recipe)
        yield from pupil.train(enough)
        yield from pupil.check()
        yield i, pupil.lesson()


class Relative(torch.optim.AdamW):
    """AdamW whose steps are measured in `scale`, which spreads over the parameter."""

    def __init__(self, parameter: torch.nn.Parameter, scale: Tensor) -> None:
        super().__init__([parameter], betas=(0.9, 0.95), weight_decay=0.0)
        self.parameter, self.scale = parameter, scale

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        before = self.parameter.clone()
        super().step()
        self.parameter.copy_(before + (self.parameter - before) * self.scale)


class _Pupil:
    """One problem's layer vectors [layers, 1, hidden] while they are trained."""

    def __init__(
        self,
        model: LanguageModel,
        index: int,
        problem: Problem,
        first: Vote,
        winners: Sequence[Trace],
        recipe: Recipe,
    ) -> None:
        self.model, self.index, self.problem, self.first = model, index, problem, first
        self.winners, self.recipe, self.scale = winners[:MOST], recipe, model.layer_scale()
        start = torch.zeros(len(self.scale), 1, model.hidden, device=self.scale.device)
        self.soft = torch.nn.Parameter(start)
        self.optimizer = Relative(self.soft, self.scale)
        self.steps: list[Step] = []
        self.stopped = ""  # why training ended early

    def train(self, enough: Callable[[], bool]) -> Iterator[tuple[int, Progress]]:
        """The gradient steps, until they are done or it is enough."""
        for n in range(1, self.recipe.steps + 1):
            step = yield from self._step(n)
            self.steps.append(step)
            yield self.index, step
            self.stopped = step.note or (STOPPED if enough() else "")
            if self.stopped:
                return

    def _step(self, n: int) -> Generator[tuple[int, Status], None, Step]:
        """One gradient step on all winners."""
        began, steps = time.perf_counter(), self.recipe.steps
        group = RolloutGroup(self.problem, self.soft, self.winners, torch.ones(len(self.winners)))
        work = policy_gradient(self.model, [group], self.recipe.temperature)
        (loss,) = yield from followed(work, f"Training step {n} of {steps}", self.index)
        norm, note = float(torch.as_tensor(self.soft.grad).norm()), ""
        if math.isfinite(norm):
            rate = RATE * min(1.0, n / WARM_UP, 2 * (steps + 1 - n) / steps)
            self.optimizer.param_groups[0]["lr"] = rate
            self.optimizer.step()
        else:
            loss, norm, note = 0.0, 0.0, NOT_FINITE
        self.optimizer.zero_grad()
        return Step(
            step=n,
            steps=self.recipe.steps,
            label=self.first.label,
            agreement=self.first.majority_ratio if n == 1 else None,
            rewards=(),
            loss=loss,
            grad_norm=norm,
            shift=self._shift(),
            finished=1.0,
            length=fmean(t.tokens for t in self.winners),
            entropy=fmean(t.entropy or 0.0 for t in self.winners),
            tokens=0,
            seconds_rollout=0.0,
            seconds_train=time.perf_counter() - began,
            problem_id=self.problem.id,
            note=note,
        )

    def _shift(self) -> float:
        """How large the vectors are: their rms in units of the scale."""
        return float((self.soft.detach() / self.scale).square().mean().sqrt())

    def check(self) -> Iterator[tuple[int, Progress]]:
        """Fresh rollouts with the memory; they decide whether it is kept."""
        if self.stopped == NOT_FINITE:
            return
        yield self.index, Status("Final check: sampling once more")
        began, recipe, traces = time.perf_counter(), self.recipe, list[Trace]()
        job = Job(self.problem, recipe.rollouts, self.soft.detach(), "memory", recipe.steps + 1)
        for _, record in sample(
            self.model,
            [job],
            seed=recipe.seed,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_new_tokens=recipe.max_new_tokens,
        ):
            if isinstance(record, Trace):
                traces.append(record)
            yield self.index, record
        traces.sort(key=lambda t: t.row)
        now = vote(traces, side="memory")
        yield self.index, now
        agrees = [float(t.votes and same_answer(self.first.label, t.answer)) for t in traces]
        tokens = sum(t.tokens for t in traces)
        self.steps.append(
            replace(
                self.steps[-1],
                step=recipe.steps + 1,
                label=now.label,
                agreement=fmean(agrees),
                rewards=tuple(agrees),
                loss=0.0,
                grad_norm=0.0,
                finished=fmean(t.votes for t in traces),
                length=tokens / len(traces),
                entropy=sum((t.entropy or 0.0) * t.tokens for t in traces) / tokens,
                tokens=tokens,
                seconds_rollout=time.perf_counter() - began,
                seconds_train=0.0,
                note="final check, no gradient",
            )
        )
        yield self.index, self.steps[-1]

    def lesson(self) -> Lesson:
        """The memory, if fresh rollouts with it agree with the vote at least as often as those of
        the vote did."""
        steps, before, last = tuple(self.steps), self.first.majority_ratio, self.steps[-1]
        if self.stopped == NOT_FINITE:
            return Lesson(None, f"Nothing was learnt: {NOT_FINITE}.", steps)
        after, taken = last.agreement or 0.0, len(steps) - 1
        if self.recipe.keep == "best" and (after < before or after == 0):
            fell = f"agreement fell from {before:.0%} to {after:.0%}"
            return Lesson(None, f"Nothing was learnt: {fell}.", steps)
        end = f" Training ended early: {self.stopped}." if self.stopped else ""
        why = (
            f"Kept the memory after step {taken}: agreement {before:.0%} before, {after:.0%} "
            f"after.{end}"
        )
        return Lesson(self.soft.detach().cpu().numpy().astype(np.float32), why, steps, taken)
