"""All systems of the comparison by name, each with one sentence, made over one engine so that they
share what they can."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...method.distillation import Recipe
from ...records import KeyKind, LatentmemError, Problem
from ..results import VOTES, AnswerMode, System, TrainingSchedule
from . import elm, offline
from .base import UntrainedPrompt, VoteN, ZeroShot
from .context import IclRaw, IclRefined, Lag, ReasoningBank
from .elm import Elm, ElmUnrouted, RandomMemory, RandomUnrouted, UntrainedRouted, format_teacher
from .offline import Offline, offline_grpo, offline_lora, offline_prompt
from .sampler import Sampler
from .teacher import Teacher

if TYPE_CHECKING:
    from ...engine import Engine


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
        s = engine.settings
        self.engine, self.settings, self.folder, self.group, self.votes = (
            engine,
            s,
            folder,
            group,
            votes,
        )
        self.recipe = Recipe(**{f.name: getattr(s, f.name) for f in fields(Recipe)})
        self.sampler = Sampler(
            engine.model, s.seed, s.max_new_tokens, folder, rows=rows, top_p=s.top_p
        )
        self.rates = {
            "soft": s.learning_rate,
            "lora": elm.LEARNING_RATE,
            "full": offline.LEARNING_RATE,
            **(rates or {}),
        }
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
        return format_teacher(self.sampler, self.recipe, self.key, self.folder, self.group)

    @cached_property
    def lora_teacher(self) -> Teacher:
        return elm.lora_teacher(
            self.sampler,
            self.recipe,
            self.key,
            self.folder,
            learning_rate=self.rates["lora"],
            group=self.group,
        )

    def schedule(self, what: str) -> TrainingSchedule:
        """How an offline system trains: `what` is "soft", "lora" or "full", whose checkpoints
        differ much in size."""
        return TrainingSchedule(*self._offline, self.rates[what], 10 if what == "full" else 1)

    def offline(self, make: Callable[..., Offline], what: str) -> Offline:
        return make(self.sampler, self.recipe, self.schedule(what), self.folder)

    def icl(self, kind: type[IclRaw], name: str) -> IclRaw:
        s = self.settings
        return kind(
            self.sampler,
            self.key,
            name,
            kind=s.key,
            min_similarity=s.min_similarity,
            mode=self.mode,
        )

    def make(self, name: str) -> System:
        """A system of the comparison that has learnt nothing. Raises LatentmemError for a name that
        is not in SYSTEMS."""
        if name not in SYSTEMS:
            raise LatentmemError(f"There is no system {name!r}: use one of {', '.join(SYSTEMS)}.")
        return SYSTEMS[name].make(self)

    def elm(
        self,
        name: str,
        kind: type[Elm] = Elm,
        *,
        key: KeyKind | None = None,
        teacher: Teacher | None = None,
    ) -> Elm:
        """A system that keeps memories. `key`: what retrieval compares, if the settings do not
        decide it."""
        s = self.settings
        return kind(
            self.sampler,
            teacher or self.teacher,
            self.key,
            name,
            kind=key or s.key,
            min_similarity=s.min_similarity,
            verifier=s.verifier,
        )


@dataclass(frozen=True)
class Entry:
    """A system: what it is in one sentence, and how it is made. `learns`: "online", from each
    problem after it was answered (`learn`); "offline", from a training set before (`fit`); "" not
    at all."""

    sentence: str
    make: Callable[[SystemFactory], System]
    learns: str = ""


SYSTEMS: Mapping[str, Entry] = {
    "zero_shot": Entry("The model alone, thinking step by step.", lambda f: ZeroShot(f.sampler)),
    "vote_n": Entry(
        "The majority of N traces of the model alone, the competitor at equal compute.",
        lambda f: VoteN(f.sampler, f.votes),
    ),
    "untrained_prompt": Entry(
        "The soft prompt before any training: the embeddings of its starting text (a control).",
        lambda f: UntrainedPrompt(f.sampler, f.recipe.init_text, f.recipe.virtual_tokens),
    ),
    "untrained_routed": Entry(
        "The untrained soft prompt, routed as elm is: what a second, different try gives (a "
        "control).",
        lambda f: f.elm("untrained_routed", UntrainedRouted),
    ),
    "icl_raw": Entry(
        "The nearest past problem with its majority trace, in the context as the turn before.",
        lambda f: f.icl(IclRaw, "icl_raw"),
        "online",
    ),
    "icl_refined": Entry(
        "The nearest past problem with a lesson that the model wrote after looking back at its "
        "trace.",
        lambda f: f.icl(IclRefined, "icl_refined"),
        "online",
    ),
    "reasoning_bank": Entry(
        "Strategies in words, distilled from agreeing and disagreeing traces of the nearest "
        "problem.",
        lambda f: f.icl(ReasoningBank, "reasoning_bank"),
        "online",
    ),
    "lag": Entry(
        "The stored keys and values of the nearest past problem and trace, reused without "
        "learning.",
        lambda f: f.icl(Lag, "lag"),
        "online",
    ),
    "elm": Entry(
        "Latent memories found by the problem's key (its sentence embedding, if no other is set), "
        "routed against the model alone.",
        lambda f: f.elm("elm"),
        "online",
    ),
    "elm_kv": Entry(
        "The same memories found by the model's own key and value activations, whatever is set.",
        lambda f: f.elm("elm_kv", key="kv"),
        "online",
    ),
    "elm_unrouted": Entry(
        "The nearest memory always answers, without a comparison with the model alone.",
        lambda f: f.elm("elm_unrouted", ElmUnrouted),
        "online",
    ),
    "random_memory": Entry(
        "A random memory in place of the nearest, routed (a lower control).",
        lambda f: f.elm("random_memory", RandomMemory),
        "online",
    ),
    "random_unrouted": Entry(
        "A random memory always answers (a lower control of elm_unrouted).",
        lambda f: f.elm("random_unrouted", RandomUnrouted),
        "online",
    ),
    "format_only": Entry(
        "As elm, but rewarded for finishing with a boxed answer, right or wrong (a control).",
        lambda f: f.elm("format_only", teacher=f.format_teacher),
        "online",
    ),
    "format_unrouted": Entry(
        "The format-only memory always answers (the control of elm_unrouted).",
        lambda f: f.elm("format_unrouted", ElmUnrouted, teacher=f.format_teacher),
        "online",
    ),
    "elm_lora": Entry(
        "The loop of elm with a low-rank adapter in place of the soft prompt (an ablation).",
        lambda f: f.elm("elm_lora", elm.ElmLora, teacher=f.lora_teacher),
        "online",
    ),
    "offline_prompt": Entry(
        "One soft prompt trained on the whole set by majority vote.",
        lambda f: f.offline(offline_prompt, "soft"),
        "offline",
    ),
    "offline_lora": Entry(
        "One low-rank adapter trained on the whole set by majority vote.",
        lambda f: f.offline(offline_lora, "lora"),
        "offline",
    ),
    "offline_ttrl": Entry(
        "All parameters trained on the whole set by majority vote (TTRL).",
        lambda f: f.offline(offline.offline_ttrl, "full"),
        "offline",
    ),
    "offline_grpo": Entry(
        "All parameters trained on the whole set with the true answers (the upper reference).",
        lambda f: f.offline(offline_grpo, "full"),
        "offline",
    ),
}
