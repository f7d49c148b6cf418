"""elm_unrouted: the memory's answer always, where there is a memory. Shows the memories without the router's shield."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..records import Problem, Route
from .base import Form, Reply
from .elm import NONE, Elm
from .row import blank


class ElmUnrouted(Elm):
    """Samples one side only: with the memory where one is near enough, else alone. So it costs half of `elm`."""

    def reply(self, problems: Sequence[Problem], form: Form) -> Iterator[Reply]:
        problems = [blank(p) for p in problems]
        hits = [self.find(p) for p in problems]
        for problem, hit, sides in zip(problems, hits, self.sides(problems, hits, form, False), strict=True):
            ((side, sampled),) = sides.items()
            answer = sampled.vote.label
            reason = "The memory answers, without a comparison." if hit else NONE
            way = Route(side if answer is not None else None, answer, False, reason)
            yield self.told(problem, form, sides, hit, way)
