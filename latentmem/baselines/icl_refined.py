"""icl_refined: as icl_raw, but the model first looks back at its own trace and rewrites it into a lesson."""

from __future__ import annotations

from collections.abc import Sequence

from ..prompts import lesson_messages, refine_messages
from ..records import Problem
from .base import ONE
from .experiences import Experience
from .icl import IclRaw, majority_text
from .sampler import Ask, Sampled


class IclRefined(IclRaw):
    """Keeps the lesson, written greedily; it stands in front of the new problem in the same turn."""

    def keep(self, voted: Sequence[tuple[Problem, Sampled]]) -> list[str]:
        asks = [Ask(p, messages=refine_messages(p.text, majority_text(s))) for p, s in voted]
        return self.written(asks)

    def written(self, asks: Sequence[Ask]) -> list[str]:
        """What the model writes when asked, greedily; its cost is counted. '' where the chat exceeds the context."""
        fitting = [a for a in asks if self.sampler.fits(a)]
        lessons = dict(zip(map(id, fitting), self.sampler.sample(fitting, ONE), strict=True))
        for lesson in lessons.values():
            self.spent += lesson.cost
        return [lessons[id(a)].traces[0].text.strip() if id(a) in lessons else "" for a in asks]

    def messages(self, past: Experience, problem: Problem) -> list[dict[str, str]]:
        return lesson_messages(past.problem.text, past.text, problem.text)
