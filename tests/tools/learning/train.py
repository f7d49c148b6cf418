"""Training one memory on many problems: what the vote has paid for already, or fresh rollouts of
each step."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from latentmem.method.grpo import RolloutGroup, TokenLoss, policy, policy_gradient
from latentmem.method.rollouts import Job, sample, seed_for
from latentmem.model.language_model import LanguageModel
from latentmem.records import Trace
from tests.tools.learning.plan import Lesson, Plan, made, save
from tests.tools.learning.self_distillation import Distillation, reference_messages, teacher_states
from tests.tools.learning.store import append


class Trainer:
    """One run of a plan; `step()` takes one step and tells of it."""

    def __init__(self, base: LanguageModel, plan: Plan, given: Sequence[Lesson]) -> None:
        self.base, self.plan, self.given = base, plan, list(given)
        self.form = made(base, plan)
        self.optimizer = (
            Normal(self.form.numbers, plan.momentum)
            if plan.optimizer == "normal"
            else torch.optim.AdamW(
                [self.form.numbers], lr=plan.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
            )
        )
        self.done, self.before = 0, None
        self._states: dict[tuple[str, tuple[int, ...]], Tensor] = {}
        order = np.random.Generator(np.random.Philox(seed_for(plan.seed, "lessons", 0, 0)))
        self._queue = [
            i
            for _ in range(1 + plan.steps * plan.batch // max(1, len(self.given)))
            for i in order.permutation(len(self.given))
        ]

    def step(self) -> dict[str, float]:
        """One gradient step on the next problems -> what is logged."""
        plan, began = self.plan, time.perf_counter()
        at = self.done * plan.batch
        batch = [self.given[i] for i in self._queue[at : at + plan.batch]]
        if plan.fresh:
            batch = self._sampled(batch)
        groups = [group for one in batch for group in self._groups(one)]
        loss: TokenLoss = policy
        if plan.loss.startswith("distil"):  # one group of each lesson
            taught = zip(batch, groups, strict=True)
            loss = Distillation([self._teacher(one, g.traces) for one, g in taught], clip=plan.clip)
        told = (
            sum(drain(policy_gradient(self.form.model(self.base), groups, 0.8, loss=loss)))
            if groups
            else 0.0
        )
        log = self._update()
        self.done += 1
        return {
            "step": self.done,
            "loss": told,
            **log,
            "tokens": sum(len(t.token_ids) for group in groups for t in group.traces),
            "agreement": fmean(one.agrees(t) for one in batch for t in one.traces),
            "seconds": time.perf_counter() - began,
        }

    def _groups(self, one: Lesson) -> list[RolloutGroup]:
        """The problem's share of the loss."""
        plan, share = self.plan, self.plan.batch
        soft = self.form.soft()
        rng = np.random.Generator(
            np.random.Philox(seed_for(plan.seed, one.problem.id, self.done, 1))
        )
        group = [one.traces[i] for i in sorted(rng.permutation(len(one.traces))[: plan.traces])]
        group = [t for t in group if t.finished]  # a truncated trace is neither right nor wrong
        if plan.loss.startswith("distil"):
            return [RolloutGroup(one.problem, soft, group, torch.full((len(group),), 1 / share))]
        wins = torch.tensor([float(one.agrees(t)) for t in group])
        if plan.loss in ("winners", "losers"):
            sign = 1.0 if plan.loss == "winners" else -1.0
            group = [t for t, w in zip(group, wins.tolist(), strict=True) if bool(w) == (sign > 0)]
            wins = torch.full((len(group),), sign)
        elif len(set(wins.tolist())) < 2:
            return []
        else:
            wins = wins - wins.mean()
        return [RolloutGroup(one.problem, soft, group, wins / share)] if group else []

    def _teacher(self, one: Lesson, group: Sequence[Trace]) -> list[Tensor]:
        """States of the teacher, computed once for each trace."""
        source = (
            one
            if self.plan.loss == "distil"
            else self.given[(self.given.index(one) + 1) % len(self.given)]
        )
        missing = [t for t in group if (one.problem.id, t.token_ids) not in self._states]
        if missing:
            states = taught_states(self.base, one, source, missing)
            self._states.update(
                {(one.problem.id, t.token_ids): s for t, s in zip(missing, states, strict=True)}
            )
        return [self._states[one.problem.id, t.token_ids] for t in group]

    def _sampled(self, batch: Sequence[Lesson]) -> list[Lesson]:
        """The same problems with fresh rollouts of the present memory."""
        with torch.no_grad():
            model, soft = self.form.model(self.base), self.form.soft()
            jobs = [
                Job(
                    one.problem,
                    self.plan.traces,
                    soft,
                    step=1000 * (self.plan.seed + 1) + self.done,
                )
                for one in batch
            ]
            groups: list[list[Trace]] = [[] for _ in jobs]
            for job, record in sample(
                model,
                jobs,
                seed=self.plan.seed,
                temperature=0.8,
                max_new_tokens=320,
                stop_at_box=True,
            ):
                if isinstance(record, Trace):
                    groups[job].append(record)
        return [
            replace(one, traces=sorted(g, key=lambda t: t.row))
            for one, g in zip(batch, groups, strict=True)
        ]

    def _update(self) -> dict[str, float]:
        """Apply the gradient, with its norm clipped at 1 and a warm-up of the rate."""
        plan, numbers = self.plan, self.form.numbers
        if numbers.grad is None:
            return {"norm": 0.0, "cosine": 0.0, "shift": length(numbers)}
        now = numbers.grad.flatten().clone()
        cosine = (
            0.0 if self.before is None else float(torch.cosine_similarity(now, self.before, dim=0))
        )
        self.before = now
        norm = float(now.norm())
        for group in self.optimizer.param_groups:
            group["lr"] = plan.learning_rate * min(1.0, (self.done + 1) / max(1, plan.warm_up))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {"norm": norm, "cosine": cosine, "shift": length(numbers)}


def taught_states(
    base: LanguageModel, one: Lesson, source: Lesson, traces: Sequence[Trace]
) -> list[Tensor]:
    """States [tokens, hidden] of the frozen model that has seen a winning attempt of `source`: its
    first, and for that one its second, since a trace must not be its own reference."""
    winners = [t for t in source.traces if source.agrees(t)][:2]
    found: dict[tuple[int, ...], Tensor] = {}
    for winner, some in (
        (winners[0], [t for t in traces if t.token_ids != winners[0].token_ids]),
        (winners[-1], [t for t in traces if t.token_ids == winners[0].token_ids]),
    ):
        if some:
            states = teacher_states(
                base, one.problem, reference_messages(one.problem.text, winner.text), some
            )
            found.update(zip((t.token_ids for t in some), states, strict=True))
    return [found[t.token_ids] for t in traces]


def length(numbers: Tensor) -> float:
    """How far the numbers, which are relative to their scale, are from the untrained zeros."""
    return float(numbers.detach().norm())


class Normal(torch.optim.Optimizer):
    """Steps of a given length along the mean of the past gradients: w -= lr * m / |m|, m = momentum
    * m + gradient.

    Unlike Adam it leaves alone the numbers that hardly matter: at rates at which Adam moves every
    number, most of its way is noise.
    """

    def __init__(self, numbers: torch.nn.Parameter, momentum: float) -> None:
        super().__init__([numbers], {"lr": 0.0, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                mean = self.state[p].setdefault("mean", torch.zeros_like(p))
                mean.mul_(group["momentum"]).add_(p.grad)
                p.sub_(group["lr"] * mean / mean.norm().clamp(min=1e-30))


def drain(work) -> list[float]:
    """What a generator returns at its end."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def run(trainer: Trainer, name: str, work: Path, results: Path, marks: Sequence[int] = ()) -> None:
    """Take the remaining steps, each logged and checkpointed; the memory after the last, and after
    `marks`, is kept."""
    state = work / f"{name}.pt"
    if state.exists():
        kept = torch.load(state, weights_only=True)
        trainer.done, trainer.before = kept["done"], kept["before"]
        trainer.optimizer.load_state_dict(kept["optimizer"])
        with torch.no_grad():
            trainer.form.numbers.copy_(kept["numbers"])
    while trainer.done < trainer.plan.steps:
        log = trainer.step()
        append(results / "training" / f"{name}.jsonl", [{k: round(v, 6) for k, v in log.items()}])
        print(name, {k: round(v, 4) for k, v in log.items()}, flush=True)
        torch.save(
            {
                "done": trainer.done,
                "before": trainer.before,
                "optimizer": trainer.optimizer.state_dict(),
                "numbers": trainer.form.numbers.detach(),
            },
            state,
        )
        if trainer.done in (*marks, trainer.plan.steps):
            save(
                trainer.form,
                results / "memories" / f"{name}-{trainer.done}.safetensors",
                trainer.plan,
            )
