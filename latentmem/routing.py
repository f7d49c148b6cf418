"""Which side answers: the model alone, or the model with a memory. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from .answers import same_answer
from .records import Route, Side, Vote


def disagree(zero_shot: Vote, memory: Vote | None) -> bool:
    """True if both sides have an answer and the answers differ: the one case that needs a verifier."""
    if memory is None or zero_shot.label is None or memory.label is None:
        return False
    return not same_answer(zero_shot.label, memory.label)


def route(zero_shot: Vote, memory: Vote | None, scores: Mapping[Side, float] | None = None, *, verifier: str = "",
          why_none: str = "") -> Route:
    """Choose a side (paper, routing): an agreement is the answer; else the side the verifier scores higher.

    `memory` is None when no memory was tried, and `why_none` says why. `scores` (side -> score) are needed only where
    `disagree(...)`. A tie goes to the model alone, so that a memory acts only where something speaks for it.
    """
    a = zero_shot.label
    if memory is None:
        return Route("zero_shot" if a is not None else None, a, False, why_none or "The model answered alone.")
    b = memory.label
    if a is None and b is None:
        return Route(None, None, False, "Neither side finished a trace with a boxed answer.")
    if a is None:
        return Route("memory", b, False, "Only the side with the memory finished with an answer.")
    if b is None:
        return Route("zero_shot", a, False, "With the memory no trace finished with an answer.")
    if not disagree(zero_shot, memory):
        return Route("zero_shot", a, True, "Both sides gave the same answer.")
    assert scores is not None and set(scores) == {"zero_shot", "memory"}, "a disagreement needs both scores"
    side: Side = "memory" if scores["memory"] > scores["zero_shot"] else "zero_shot"
    high, low = max(scores.values()), min(scores.values())
    verdict = f"scored {high:.3g} against {low:.3g}" if high > low else f"both scored {high:.3g}, a tie"
    who = "with the memory" if side == "memory" else "of the model alone"
    reason = f"The sides disagreed ({a} alone, {b} with the memory); the verifier {verifier} chose the answer {who}: {verdict}."
    return Route(side, b if side == "memory" else a, False, reason, dict(scores), verifier)
