"""All systems of the comparison by name, made over one engine so that they share what they can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...method.distillation import Recipe
from ...records import KeyKind, Problem
from ..results import VOTES, AnswerMode, System, TrainingSchedule
from .base import UntrainedPrompt, VoteN, ZeroShot
from .context import IclRaw, IclRefined, Lag, ReasoningBank
from .elm import Elm, ElmLora, ElmUnrouted, RandomMemory, RandomUnrouted, UntrainedRouted
from .offline import LEARNERS, Offline, offline
from .sampler import Sampler
from .teacher import Teacher
from .weight_training import LoraModel

if TYPE_CHECKING:
    from ...engine import Engine


# Of adapters a usual rate: at the soft prompt's 1e-3 a step changes the model ten times as much.
# Of all parameters: TTRL has 5e-7; after ten steps of four problems at 1e-5 the default model
# solved 3 of 50 problems.
RATES = {"lora": 1e-4, "full": 1e-6}


class SystemFactory:
    """What the systems are made of: one model, one sampler, one teacher for each kind of memory,
    one store of keys.

    `folder` keeps rollouts and lessons, so that a killed run continues and systems share them.
    `rows` is the size of a batch, `group` how many problems are distilled together, `votes` the N
    of vote_n; offline systems take `offline_steps` of `offline_batch` problems. `rates` replaces
    learning rates ("soft" prompt, "lora", "full" parameters).
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path | None = None,
        *,
        rows: int | None = None,
        group: int | None = None,
        votes: int = VOTES,
        offline_steps: int = TrainingSchedule.steps,
        offline_batch: int = 4,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.settings = s = engine.settings
        self.engine, self.folder, self.group, self.votes = engine, folder, group, votes
        self.recipe = Recipe(**{f.name: getattr(s, f.name) for f in fields(Recipe)})
        how = {"rows": rows, "top_p": s.top_p}
        self.sampler = Sampler(engine.model, s.seed, s.max_new_tokens, folder, **how)
        self.rates = {"soft": s.learning_rate, **RATES, **(rates or {})}
        self._offline = offline_steps, offline_batch
        self._keys: dict[tuple[str, KeyKind], np.ndarray] = {}

    def key(self, problem: Problem, kind: KeyKind) -> np.ndarray:
        """A problem's retrieval key, computed once."""
        found = self._keys.get((problem.text, kind))
        if found is None:
            found = self._keys[problem.text, kind] = self.engine.key(problem, kind)
        return found

    @property
    def mode(self) -> AnswerMode:
        """How online systems vote on what they learn from: as the recipe does."""
        return AnswerMode("vote", self.recipe.rollouts, self.recipe.temperature)

    @cached_property
    def teacher(self) -> Teacher:
        return Teacher(self.sampler, self.recipe, self.key, self.folder, group=self.group)

    @cached_property
    def format_teacher(self) -> Teacher:
        """The teacher of the controls that are rewarded for a boxed answer at the end, right or
        wrong: the same gate on the same first votes, another reward, which also chooses the best
        step."""
        how = {"name": "format", "reward": "boxed", "group": self.group}
        return Teacher(self.sampler, self.recipe, self.key, self.folder, **how)

    @cached_property
    def lora_teacher(self) -> Teacher:
        """As `teacher`; memories hold adapters and no virtual tokens."""
        model = LoraModel(self.sampler.model)
        recipe = replace(self.recipe, learning_rate=self.rates["lora"], virtual_tokens=0)
        how = {"name": "lora", "model": model, "gradient": model.gradient, "group": self.group}
        return Teacher(self.sampler, recipe, self.key, self.folder, **how)

    def offline(self, name: str) -> Offline:
        schedule = TrainingSchedule(*self._offline, self.rates[LEARNERS[name][0]])
        return offline(name, self.sampler, self.recipe, schedule)

    def icl(self, name: str, kind: type[IclRaw]) -> IclRaw:
        s, mode = self.settings, self.mode
        how = {"kind": s.key, "min_similarity": s.min_similarity, "mode": mode}
        return kind(self.sampler, self.key, name, **how)

    def make(self, name: str) -> System:
        """A system of SYSTEMS that has learnt nothing."""
        return SYSTEMS[name].make(self, name)

    def elm(
        self,
        name: str,
        kind: type[Elm] = Elm,
        *,
        key: KeyKind | None = None,
        teacher: Teacher | None = None,
    ) -> Elm:
        """A system that keeps memories. `key`: what retrieval compares, if not as set."""
        s = self.settings
        how = {"min_similarity": s.min_similarity, "verifier": s.verifier}
        teacher = teacher or self.teacher
        return kind(self.sampler, teacher, self.key, name, kind=key or s.key, **how)


class Entry(NamedTuple):
    """How a system is made, by its name. `learns`: "online", from each problem after it was
    answered (`learn`); "offline", from a training set before (`fit`); "" not at all."""

    make: Callable[[SystemFactory, str], System]
    learns: str = ""


def untrained(f: SystemFactory, name: str) -> System:
    return UntrainedPrompt(f.sampler, f.recipe.init_text, f.recipe.virtual_tokens)


# What each does: the docstrings of the classes, and assets/results/README.md.
SYSTEMS: Mapping[str, Entry] = {
    "zero_shot": Entry(lambda f, name: ZeroShot(f.sampler)),
    "vote_n": Entry(lambda f, name: VoteN(f.sampler, f.votes)),
    "untrained_prompt": Entry(untrained),
    "untrained_routed": Entry(lambda f, name: f.elm(name, UntrainedRouted)),
    "icl_raw": Entry(lambda f, name: f.icl(name, IclRaw), "online"),
    "icl_refined": Entry(lambda f, name: f.icl(name, IclRefined), "online"),
    "reasoning_bank": Entry(lambda f, name: f.icl(name, ReasoningBank), "online"),
    "lag": Entry(lambda f, name: f.icl(name, Lag), "online"),
    "elm": Entry(lambda f, name: f.elm(name), "online"),
    # found by the model's own key and value activations, whatever is set
    "elm_kv": Entry(lambda f, name: f.elm(name, key="kv"), "online"),
    "elm_unrouted": Entry(lambda f, name: f.elm(name, ElmUnrouted), "online"),
    "random_memory": Entry(lambda f, name: f.elm(name, RandomMemory), "online"),
    "random_unrouted": Entry(lambda f, name: f.elm(name, RandomUnrouted), "online"),
    "format_only": Entry(lambda f, name: f.elm(name, teacher=f.format_teacher), "online"),
    "format_unrouted": Entry(
        lambda f, name: f.elm(name, ElmUnrouted, teacher=f.format_teacher), "online"
    ),
    "elm_lora": Entry(lambda f, name: f.elm(name, ElmLora, teacher=f.lora_teacher), "online"),
    **dict.fromkeys(LEARNERS, Entry(SystemFactory.offline, "offline")),
}
