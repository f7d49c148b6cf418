"""Problems -> soft prompts, by GRPO with the majority vote as reward. Several problems share every
batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..model.language_model import LanguageModel
from ..records import Delta, Problem, Status, Step, Trace, Vote
from .answers import same_answer
from .grpo import RolloutGroup, Scheme, advantages, policy_gradient
from .rollouts import Job, sample
from .voting import gate, rewards, vote

CONVERGED = 2  # this many unanimous groups in a row: the rollouts have no gradient left to give
Reward = Literal["majority", "boxed"]
Gradient = Callable[
    [LanguageModel, Sequence[RolloutGroup], float], Generator[tuple[int, int], None, list[float]]
]


@dataclass(frozen=True)
class Recipe:
    """How to distil. The meaning and the source of each value stand in `settings.Settings`."""

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
    """The end of one problem's distillation: a trained soft prompt [virtual tokens, hidden], or
    None and why."""

    soft: np.ndarray | None
    reason: str
    steps: tuple[Step, ...]
    best_step: int = 0


@dataclass(eq=False)
class _Learner:
    """One problem's soft prompt while it is trained."""

    problem: Problem
    first: Vote  # before training, without the soft prompt
    usual: tuple[
        float, float
    ]  # share finished with a box, and mean tokens, of the first vote's traces
    soft: torch.nn.Parameter
    optimizer: torch.optim.Optimizer
    start: Tensor
    past: list[Tensor] = field(default_factory=list)  # past[s]: the prompt after s steps
    scores: list[float] = field(
        default_factory=list
    )  # scores[s]: agreement of past[s] with the first vote's label
    steps: list[Step] = field(default_factory=list)
    unanimous: int = 0
    stopped: str = ""  # why it ended early


def _learner(
    model: LanguageModel, problem: Problem, traces: Sequence[Trace], first: Vote, recipe: Recipe
) -> _Learner:
    start = model.text_prompt(recipe.init_text, recipe.virtual_tokens)
    soft = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.AdamW([soft], lr=recipe.learning_rate, weight_decay=0.0)
    return _Learner(
        problem,
        first,
        (fmean(t.votes for t in traces), fmean(t.tokens for t in traces)),
        soft,
        optimizer,
        start,
        past=[start],
    )


def distil(
    model: LanguageModel,
    problems: Sequence[Problem],
    firsts: Sequence[tuple[Sequence[Trace], Vote]],
    recipe: Recipe,
    *,
    reward: Reward = "majority",
    gradient: Gradient = policy_gradient,
) -> Iterator[tuple[int, Status | Delta | Trace | Vote | Step | Lesson]]:
    """Train one soft prompt per problem. Yields (problem index, record); the last record of each
    problem is its Lesson.

    `firsts[i]` are the traces and the vote of the model alone on problem i: they decide whether
    there is anything to learn. Every step samples fresh rollouts with the present prompts, in one
    batch, and takes one gradient step. After the last one the final prompts are sampled once more,
    so that each candidate has been seen at work before one is kept. Closing the generator abandons
    everything.

    `reward`: agreement with the pseudo-label, or (a control) a finished trace with any boxed
    answer. `gradient` is how a group's loss reaches what is trained; another one, with a model that
    samples accordingly, trains an adapter.
    """
    learners: dict[int, _Learner] = {}
    for i, (problem, (traces, first)) in enumerate(zip(problems, firsts, strict=True)):
        if why := gate(first, recipe.gate_votes, recipe.gate_lead):
            yield i, Lesson(None, why, ())
        else:
            learners[i] = _learner(model, problem.unlabelled(), traces, first, recipe)
    for step in range(1, recipe.steps + 2):
        live = {i: one for i, one in learners.items() if not one.stopped}
        if not live:
            break
        yield from _step(model, live, step, recipe, reward, gradient)
    for i, one in learners.items():
        yield i, _lesson(one, recipe)


def _step(
    model: LanguageModel,
    live: dict[int, _Learner],
    step: int,
    recipe: Recipe,
    reward: Reward,
    gradient: Gradient,
) -> Iterator[tuple[int, Status | Delta | Trace | Vote | Step]]:
    """Fresh rollouts, votes, rewards and, but for the final check, one gradient step for every live
    learner."""
    began, last = time.perf_counter(), step > recipe.steps
    order = list(live)
    yield (
        order[0],
        Status(
            "Final check: sampling once more"
            if last
            else f"Step {step} of {recipe.steps}: sampling fresh traces"
        ),
    )
    jobs = [
        Job(live[i].problem, recipe.rollouts, live[i].soft.detach().clone(), "memory", step)
        for i in order
    ]
    traces: dict[int, list[Trace]] = {i: [] for i in order}
    for job, record in sample(
        model,
        jobs,
        seed=recipe.seed,
        temperature=recipe.temperature,
        top_p=recipe.top_p,
        max_new_tokens=recipe.max_new_tokens,
    ):
        if isinstance(record, Trace):
            traces[order[job]].append(record)
        yield order[job], record
    sampled = time.perf_counter()
    votes, lots, notes, payoffs = {}, {}, {}, {}
    for i in order:
        one, group = live[i], sorted(traces[i], key=lambda t: t.row)
        votes[i] = vote(group, side="memory")
        payoffs[i] = _payoff(group, votes[i], one.first, recipe, reward)
        notes[i] = _look(one, votes[i], group, payoffs[i], recipe, reward, final=last)
        if not notes[i]:
            lots[i] = RolloutGroup(
                one.problem,
                one.soft,
                group,
                advantages(payoffs[i], recipe.advantage),
                recipe.entropy_bonus,
            )
        yield i, votes[i]
    losses = dict.fromkeys(order, 0.0)
    if lots:
        work = gradient(model, list(lots.values()), recipe.temperature)
        while True:
            try:
                done, total = next(work)
            except StopIteration as end:
                losses.update(zip(lots, end.value, strict=True))
                break
            yield order[0], Status(f"Training step {step} of {recipe.steps}", done, total)
    updates = {i: _update(live[i], recipe) if i in lots else (0.0, notes[i]) for i in order}
    trained = (
        time.perf_counter()
    )  # on a GPU only now: the gradient's norm waits for the work that was queued
    share = len(order)  # the batch's time is split evenly among its problems
    for i in order:
        norm, note = updates[i]
        record = _record(
            live[i],
            step,
            recipe,
            votes[i],
            payoffs[i],
            traces[i],
            losses[i],
            norm,
            note,
            (sampled - began) / share,
            (trained - sampled) / share,
        )
        live[i].steps.append(record)
        yield i, record


def _agrees(group: Sequence[Trace], label: str | None) -> tuple[float, ...]:
    return tuple(float(t.votes and same_answer(label, t.answer)) for t in group)


def _payoff(
    group: Sequence[Trace], now: Vote, first: Vote, recipe: Recipe, reward: Reward
) -> tuple[float, ...]:
    """Each rollout's reward, in the order of the rows."""
    if reward == "boxed":
        return tuple(float(t.votes) for t in group)
    return rewards(group, now) if recipe.pseudo_label == "step" else _agrees(group, first.label)


def _look(
    one: _Learner,
    now: Vote,
    group: Sequence[Trace],
    payoff: Sequence[float],
    recipe: Recipe,
    reward: Reward,
    *,
    final: bool,
) -> str:
    """Judge the present prompt by its rollouts; the note says why no gradient is taken, '' if one
    is."""
    # The control must not choose its best step by the majority either.
    one.scores.append(fmean(payoff if reward == "boxed" else _agrees(group, one.first.label)))
    finished, length = fmean(t.votes for t in group), fmean(t.tokens for t in group)
    if finished < 0.5 * one.usual[0] or length < 0.35 * one.usual[1]:
        # Seen with a learning rate of 5e-3: within ten steps no trace finishes with a box any more.
        one.stopped = f"collapsed: {finished:.0%} of the traces finish, {length:.0f} tokens long"
        return one.stopped
    if final:
        one.stopped = "done"
        return "final check, no gradient"
    one.unanimous = one.unanimous + 1 if len(set(payoff)) == 1 else 0
    if one.unanimous >= CONVERGED:
        one.stopped = "converged"
    if len(set(payoff)) == 1:
        return f"all {len(payoff)} rollouts got the same reward: no gradient"
    if recipe.pseudo_label == "step" and reward == "majority":
        return gate(now, recipe.gate_votes, recipe.gate_lead) or ""
    return ""


def _update(one: _Learner, recipe: Recipe) -> tuple[float, str]:
    """Clip, check and apply the gradient; returns its norm and a note if it had to be refused."""
    norm = float(torch.nn.utils.clip_grad_norm_([one.soft], recipe.max_grad_norm))
    if not math.isfinite(norm):
        one.stopped = "the gradient was not finite"
        one.soft.grad = None
        return 0.0, one.stopped
    one.optimizer.step()
    one.optimizer.zero_grad()
    if recipe.max_shift:
        with torch.no_grad():
            one.soft.copy_(within(one.soft, one.start, recipe.max_shift))
    return norm, ""


def shift(soft: Tensor, start: Tensor) -> float:
    """How far a soft prompt [virtual tokens, hidden] is from its start: rms of the change over rms
    of the start."""
    return float((soft - start).square().mean().sqrt() / start.square().mean().sqrt())


def within(soft: Tensor, start: Tensor, most: float) -> Tensor:
    """The nearest prompt whose `shift` is at most `most`: a trust region around the start."""
    far = shift(soft, start)
    return start + (soft - start) * (most / far) if far > most else soft


def _record(
    one: _Learner,
    step: int,
    recipe: Recipe,
    now: Vote,
    payoff: Sequence[float],
    group: Sequence[Trace],
    loss: float,
    norm: float,
    note: str,
    rollout: float,
    train: float,
) -> Step:
    one.past.append(one.soft.detach().clone())
    tokens = sum(t.tokens for t in group)
    return Step(
        step=step,
        steps=recipe.steps,
        label=now.label,
        agreement=now.majority_ratio,
        rewards=tuple(payoff),
        loss=loss if math.isfinite(loss) else 0.0,
        grad_norm=norm,
        shift=shift(one.soft.detach(), one.start),
        finished=fmean(t.votes for t in group),
        length=tokens / len(group),
        entropy=sum(t.entropy * t.tokens for t in group) / tokens,
        tokens=tokens,
        seconds_rollout=rollout,
        seconds_train=train,
        problem_id=one.problem.id,
        note=note,
    )


def _lesson(one: _Learner, recipe: Recipe) -> Lesson:
    """Keep the best prompt that was seen at work, chosen without labels: the one whose rollouts
    agree most with the first vote; of equals the latest. Or the last, however it did. past[0] is
    the untrained start, which is no memory."""
    steps = tuple(one.steps)
    trained = [s for s in range(1, len(one.scores)) if not torch.equal(one.past[s], one.start)]
    if not trained:
        told = one.steps[
            min(len(one.steps), recipe.steps) - 1
        ].note or (  # the final check says nothing about why
            "the steps were too small to change the prompt, so use a higher learning rate"
        )
        return Lesson(None, f"Nothing was learnt: {told}.", steps)
    best = trained[-1] if recipe.keep == "last" else max(trained, key=lambda s: (one.scores[s], s))
    if recipe.keep == "best" and (one.scores[best] < one.scores[0] or one.scores[best] == 0):
        return Lesson(
            None,
            f"Nothing was learnt: agreement fell from {one.scores[0]:.0%} to "
            f"{one.scores[best]:.0%} at best.",
            steps,
        )
    end = "" if one.stopped in ("", "done") else f" Training ended early: {one.stopped}."
    return Lesson(
        one.past[best].cpu().numpy().astype(np.float32),
        f"Kept the prompt after step {best}: agreement {one.scores[0]:.0%} before, "
        f"{one.scores[best]:.0%} after.{end}",
        steps,
        best,
    )
