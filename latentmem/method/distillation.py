"""Problems -> soft prompts, by GRPO with the majority vote as reward. Several problems share every
batch.

`grpo_step` is one step, whatever is trained; `distil` takes such steps on one soft prompt a
problem, and `evaluation/baselines/offline.py` on one learner for a whole set.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from ..model.language_model import LanguageModel
from ..records import Delta, Problem, Status, Step, Trace, Vote
from .answers import same_answer
from .grpo import RolloutGroup, Scheme, advantages, policy_gradient
from .rollouts import Job, sample
from .voting import gate, majority_rewards, vote

CONVERGED = 2  # this many unanimous groups in a row: the rollouts have no gradient left to give
STOPPED = "it was told to stop"
NOT_FINITE = "the gradient was not finite"  # the note of a step that was refused
Reward = Literal["majority", "boxed"]
# (model, groups, temperature) -> (rows done, rows) on the way, and each group's loss at the end
Gradient = Callable[
    [LanguageModel, Sequence[RolloutGroup], float], Generator[tuple[int, int], None, list[float]]
]
# (index of the problem, its rollouts, their vote) -> rewards, and why no gradient is taken
Judge = Callable[[int, Sequence[Trace], Vote], tuple[tuple[float, ...], str]]
Progress = Status | Delta | Trace | Vote | Step


@dataclass(frozen=True)
class Recipe:
    """How to distil. `settings.Settings` gives the meaning and the source of each value."""

    # `winners.learn` reads it. It is not shown, as the names of the paper's lessons hold the rest.
    recipe: Literal["fast", "paper"] = field(default="paper", repr=False)
    rollouts: int = 8
    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 320
    virtual_tokens: int = 20
    init_text: str = ""
    steps: int = 10
    learning_rate: float = 1e-3
    max_grad_norm: float = 1.0
    advantage: Scheme = "std"
    gate_votes: int = 3
    gate_lead: int = 2
    pseudo_label: Literal["step", "first"] = "step"
    entropy_bonus: float = 0.0
    max_shift: float = 0.0
    keep: Literal["best", "last"] = "best"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Lesson:
    """What came of one problem: a soft prompt [virtual tokens, hidden], or None and why."""

    soft: np.ndarray | None
    reason: str
    steps: tuple[Step, ...]
    best_step: int = 0


# ---------- One gradient step, whatever is trained.


class Learner(Protocol):
    """What gradient steps train."""

    parameters: Sequence[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    soft: torch.nn.Parameter | None  # [virtual tokens, hidden], where a soft prompt is trained
    start: Tensor | None  # `soft` before any training

    def changed(self) -> None:
        """The parameters have changed."""


def adamw(parameters: Sequence[torch.nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)


def grpo_step(
    model: LanguageModel,
    problems: Sequence[Problem],
    learners: Sequence[Learner],
    recipe: Recipe,
    step: int,
    *,
    judge: Judge,
    gradient: Gradient,
    together: int | None = None,
) -> Iterator[tuple[int, Progress]]:
    """Fresh rollouts of each problem, their votes and rewards, a gradient and an update. Yields
    (problem index, record); at the end comes a Step for each problem.

    `learners[i]` learns from problem i. Where several problems share a learner, it takes one step
    on the mean of their losses. `together`: how many problems share a batch of rollouts, all by
    default.
    """
    began, share = time.perf_counter(), len(problems)  # a batch's time is split evenly
    traces = yield from _rollouts(model, problems, learners, recipe, step, together)
    sampled = time.perf_counter()
    records: list[Step] = []
    groups: dict[int, RolloutGroup] = {}
    took = (sampled - began) / share
    for i, (problem, learner, group) in enumerate(zip(problems, learners, traces, strict=True)):
        now = vote(group, side="memory")
        rewards, note = judge(i, group, now)
        records.append(_sampled(recipe, step, problem, group, now, rewards, note, took))
        if not note:
            sharing = sum(one is learner for one in learners)
            weights = advantages(rewards, recipe.advantage) / sharing
            bonus = recipe.entropy_bonus / sharing
            groups[i] = RolloutGroup(problem, learner.soft, group, weights, bonus)
        yield i, now
    losses, updates = {}, {}
    if groups:
        work = gradient(model, list(groups.values()), recipe.temperature)
        text = f"Training step {step} of {recipe.steps}"
        losses = dict(zip(groups, (yield from followed(work, text)), strict=True))
        trained = {id(learners[i]): learners[i] for i in groups}
        updates = {key: update(one, recipe) for key, one in trained.items()}
    # on a GPU only now: the gradient's norm waits for the work that was queued
    ended = time.perf_counter()
    for i, (record, learner) in enumerate(zip(records, learners, strict=True)):
        norm, refused = updates[id(learner)] if i in groups else (0.0, "")
        loss, soft = losses.get(i, 0.0), learner.soft
        done = replace(
            record,
            loss=loss if math.isfinite(loss) else 0.0,
            grad_norm=norm,
            shift=0.0 if soft is None else shift(soft.detach(), learner.start),
            seconds_train=(ended - sampled) / share,
            note=record.note or refused,
        )
        yield i, done


def _rollouts(
    model: LanguageModel,
    problems: Sequence[Problem],
    learners: Sequence[Learner],
    recipe: Recipe,
    step: int,
    together: int | None,
) -> Generator[tuple[int, Delta | Trace], None, list[list[Trace]]]:
    """Samples `recipe.rollouts` traces of each problem; returns them in the order of their rows."""
    softs = [None if one.soft is None else one.soft.detach().clone() for one in learners]
    pairs = zip(problems, softs, strict=True)
    jobs = [Job(problem, recipe.rollouts, soft, "memory", step) for problem, soft in pairs]
    traces: list[list[Trace]] = [[] for _ in jobs]
    size = together or len(jobs)
    for start in range(0, len(jobs), size):
        for job, record in sample(
            model,
            jobs[start : start + size],
            seed=recipe.seed,
            temperature=recipe.temperature,
            top_p=recipe.top_p,
            max_new_tokens=recipe.max_new_tokens,
        ):
            if isinstance(record, Trace):
                traces[start + job].append(record)
            yield start + job, record
    return [sorted(group, key=lambda t: t.row) for group in traces]


def _sampled(
    recipe: Recipe,
    step: int,
    problem: Problem,
    group: Sequence[Trace],
    now: Vote,
    rewards: tuple[float, ...],
    note: str,
    seconds: float,
) -> Step:
    """The record of a step after its rollouts, before any training."""
    tokens = sum(t.tokens for t in group)
    return Step(
        step=step,
        steps=recipe.steps,
        label=now.label,
        agreement=now.majority_ratio,
        rewards=rewards,
        loss=0.0,
        grad_norm=0.0,
        shift=0.0,
        finished=fmean(t.votes for t in group),
        length=tokens / len(group),
        entropy=sum((t.entropy or 0.0) * t.tokens for t in group) / tokens,
        tokens=tokens,
        seconds_rollout=seconds,
        seconds_train=0.0,
        problem_id=problem.id,
        note=note,
    )


def followed(
    work: Generator[tuple[int, int], None, list[float]], text: str, index: int = 0
) -> Generator[tuple[int, Status], None, list[float]]:
    """A gradient's progress as (problem index, Status); returns its losses."""
    while True:
        try:
            done, total = next(work)
        except StopIteration as end:
            return end.value
        yield index, Status(text, done, total)


def unanimous(rewards: Sequence[float]) -> str:
    """Why equal rewards give no gradient; '' if they differ."""
    if len(set(rewards)) > 1:
        return ""
    return f"all {len(rewards)} rollouts got the same reward: no gradient"


def update(learner: Learner, recipe: Recipe) -> tuple[float, str]:
    """Clip, check and apply the gradient. Returns its norm, and a note if it was refused."""
    norm = float(torch.nn.utils.clip_grad_norm_(learner.parameters, recipe.max_grad_norm))
    if not math.isfinite(norm):
        learner.optimizer.zero_grad()
        return 0.0, NOT_FINITE
    learner.optimizer.step()
    learner.optimizer.zero_grad()
    if recipe.max_shift and learner.soft is not None:
        with torch.no_grad():
            learner.soft.copy_(within(learner.soft, learner.start, recipe.max_shift))
    learner.changed()
    return norm, ""


def shift(soft: Tensor, start: Tensor) -> float:
    """How far a soft prompt has moved: rms of the change over rms of the start."""
    return float((soft - start).square().mean().sqrt() / start.square().mean().sqrt())


def within(soft: Tensor, start: Tensor, most: float) -> Tensor:
    """The nearest prompt whose `shift` is at most `most`: a trust region around the start."""
    far = shift(soft, start)
    return start + (soft - start) * (most / far) if far > most else soft


# ---------- One soft prompt for each problem.


@dataclass(eq=False)
class _Pupil:
    """One problem's soft prompt while it is trained: a `Learner` with its history."""

    problem: Problem
    first: Vote  # before training, without the soft prompt
    usual: tuple[float, float]  # share that finished with a box, mean tokens: of the first vote
    soft: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    start: Tensor
    past: list[Tensor]  # past[s]: the prompt after s steps
    # scores[s]: agreement of past[s] with the first vote's label
    scores: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    unanimous: int = 0
    stopped: str = ""  # why it ended early

    @property
    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.soft]

    def changed(self) -> None:
        """A soft prompt is an input: nothing else follows from it."""

    def took(self, step: Step) -> None:
        """Note down a step and the prompt that it left."""
        self.past.append(self.soft.detach().clone())
        self.steps.append(step)
        if step.note == NOT_FINITE:
            self.stopped = NOT_FINITE


def _pupil(
    model: LanguageModel, problem: Problem, traces: Sequence[Trace], first: Vote, recipe: Recipe
) -> _Pupil:
    start = model.text_prompt(recipe.init_text, recipe.virtual_tokens)
    soft = torch.nn.Parameter(start.clone())
    optimizer = adamw([soft], recipe.learning_rate)
    # Of a vote that was stopped when decided, the open traces count as if they had no answer.
    usual = sum(t.votes for t in traces) / first.total, fmean(t.tokens for t in traces)
    return _Pupil(problem, first, usual, soft, optimizer, start, [start])


def distil(
    model: LanguageModel,
    problems: Sequence[Problem],
    firsts: Sequence[tuple[Sequence[Trace], Vote]],
    recipe: Recipe,
    *,
    reward: Reward = "majority",
    gradient: Gradient = policy_gradient,
    enough: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[int, Progress | Lesson]]:
    """Train one soft prompt per problem. Yields (problem index, record); the last record of each
    problem is its Lesson.

    `firsts[i]` are the traces and the vote of the model alone on problem i; they decide whether
    there is anything to learn. Every step samples fresh rollouts with the present prompts, in one
    batch, and takes one gradient step. A final check then samples the last prompts, so that every
    candidate has rollouts of its own before one is kept. Closing the generator abandons everything;
    once `enough()` is true, the best prompt that has been judged by then is kept.

    `reward`: agreement with the pseudo-label, or (a control) a finished trace with any boxed
    answer. `gradient` carries a group's loss to what is trained: another one, with a model that
    samples accordingly, trains an adapter.
    """
    pupils: dict[int, _Pupil] = {}
    for i, (problem, (traces, first)) in enumerate(zip(problems, firsts, strict=True)):
        if why := gate(first, recipe.gate_votes, recipe.gate_lead):
            yield i, Lesson(None, why, ())
        else:
            pupils[i] = _pupil(model, problem.unlabelled(), traces, first, recipe)
    for step in range(1, recipe.steps + 2):
        live = {i: one for i, one in pupils.items() if not one.stopped}
        if not live:
            break
        for record in _step(model, live, step, recipe, reward, gradient):
            yield record
            if enough():
                break
        if enough():
            for one in live.values():
                one.stopped = one.stopped or STOPPED
            break
    for i, one in pupils.items():
        yield i, _lesson(one, recipe)


def _step(
    model: LanguageModel,
    live: dict[int, _Pupil],
    step: int,
    recipe: Recipe,
    reward: Reward,
    gradient: Gradient,
) -> Iterator[tuple[int, Progress]]:
    """A gradient step of every live pupil, or the final check, which takes none."""
    order, pupils, last = list(live), list(live.values()), step > recipe.steps
    text = f"Step {step} of {recipe.steps}: sampling fresh attempts"
    yield order[0], Status("Final check: sampling once more" if last else text)

    def judge(i: int, group: Sequence[Trace], now: Vote) -> tuple[tuple[float, ...], str]:
        rewards = _rewards(group, now, pupils[i].first, recipe, reward)
        return rewards, _look(pupils[i], now, group, rewards, recipe, reward, final=last)

    problems = [one.problem for one in pupils]
    for i, record in grpo_step(
        model, problems, pupils, recipe, step, judge=judge, gradient=gradient
    ):
        if isinstance(record, Step):
            pupils[i].took(record)
        yield order[i], record


def _agrees(group: Sequence[Trace], label: str | None) -> tuple[float, ...]:
    return tuple(float(t.votes and same_answer(label, t.answer)) for t in group)


def _rewards(
    group: Sequence[Trace], now: Vote, first: Vote, recipe: Recipe, reward: Reward
) -> tuple[float, ...]:
    """Each rollout's reward, in the order of the rows."""
    if reward == "boxed":
        return tuple(float(t.votes) for t in group)
    if recipe.pseudo_label == "first":
        return _agrees(group, first.label)
    return majority_rewards(group, now)


def _look(
    one: _Pupil,
    now: Vote,
    group: Sequence[Trace],
    rewards: Sequence[float],
    recipe: Recipe,
    reward: Reward,
    *,
    final: bool,
) -> str:
    """Judge the present prompt by its rollouts. Returns why no gradient is taken; '' if one is."""
    # The control must not choose its best step by the majority either.
    one.scores.append(fmean(rewards if reward == "boxed" else _agrees(group, one.first.label)))
    finished, length = fmean(t.votes for t in group), fmean(t.tokens for t in group)
    if finished < 0.5 * one.usual[0] or length < 0.35 * one.usual[1]:
        # A learning rate of 5e-3 did this: within ten steps no trace finished with a box.
        one.stopped = f"collapsed: {finished:.0%} of the traces finish, {length:.0f} tokens long"
        return one.stopped
    if final:
        one.stopped = "done"
        return "final check, no gradient"
    note = unanimous(rewards)
    one.unanimous = one.unanimous + 1 if note else 0
    if one.unanimous >= CONVERGED:
        one.stopped = "converged"
    if note:
        return note
    if recipe.pseudo_label == "step" and reward == "majority":
        return gate(now, recipe.gate_votes, recipe.gate_lead) or ""
    return ""


def _lesson(one: _Pupil, recipe: Recipe) -> Lesson:
    """Keep the best prompt, judged without labels: the one whose rollouts agree most with the first
    vote, and of equals the latest. Or keep the last. past[0] is the untrained start, not a memory.
    """
    steps = tuple(one.steps)
    trained = [s for s in range(1, len(one.scores)) if not torch.equal(one.past[s], one.start)]
    if not trained:
        # of the last training step: the final check says nothing about why
        note = one.steps[min(len(one.steps), recipe.steps) - 1].note if one.steps else ""
        if one.stopped == STOPPED:
            note = "training was told to stop before a changed prompt was tried"
        small = "the steps were too small to change the prompt, so use a higher learning rate"
        return Lesson(None, f"Nothing was learnt: {note or small}.", steps)
    best = trained[-1] if recipe.keep == "last" else max(trained, key=lambda s: (one.scores[s], s))
    before, after = one.scores[0], one.scores[best]
    if recipe.keep == "best" and (after < before or after == 0):
        fell = f"agreement fell from {before:.0%} to {after:.0%} at best"
        return Lesson(None, f"Nothing was learnt: {fell}.", steps)
    end = "" if one.stopped in ("", "done") else f" Training ended early: {one.stopped}."
    why = (
        f"Kept the prompt after step {best}: agreement {before:.0%} before, {after:.0%} after.{end}"
    )
    return Lesson(one.past[best].cpu().numpy().astype(np.float32), why, steps, best)
