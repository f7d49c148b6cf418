"""untrained_prompt: the text-initialised soft prompt as it is, a control for what the mere presence of one does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records import Problem
from .base import Form, Reply
from .row import Row, blank
from .sampler import Ask, Sampler


class UntrainedPrompt(Row):
    """The model behind the embeddings of `init_text`, repeated or cut to `virtual_tokens`."""

    def __init__(self, sampler: Sampler, init_text: str, virtual_tokens: int = 20, name: str = "untrained_prompt") -> None:
        super().__init__(name, sampler)
        self.soft = sampler.model.text_prompt(init_text, virtual_tokens)

    def reply(self, problems: Sequence[Problem], form: Form) -> Iterator[Reply]:
        asks = [Ask(blank(p), self.soft, side="memory") for p in problems]
        for ask, sampled in zip(asks, self.sampler.sample(asks, form), strict=True):
            yield self.one_side(ask.problem, form, sampled)
