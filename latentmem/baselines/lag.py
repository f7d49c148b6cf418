"""lag: the stored keys and values of a past problem and its trace are reused, nothing is learnt (arXiv 2505.14398).

In a causal model, the keys and values of the past turns followed by the new problem are what reading all of it as one
chat computes (`tests/test_baselines_context.py` shows it), so the rollouts are icl_raw's and are shared with it. What
differs is the reading: only the new tokens are paid for. The source keeps the keys and values of a part of the past's
tokens; here all are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..prompts import turn_messages
from ..records import Problem
from .experiences import Experience
from .icl import IclRaw
from .sampler import Ask


class Lag(IclRaw):
    """As icl_raw, with the past's tokens recalled and not read."""

    def ask(self, past: Experience, problem: Problem) -> Ask:
        ask = super().ask(past, problem)
        # What the past's chat has in common with another one's is stored; with this one's, it can be reused.
        stored = self.sampler.prompt(Ask(problem, messages=turn_messages(past.problem.text, past.text, "?")))
        return replace(ask, recalled=common(stored, self.sampler.prompt(ask)))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two prompts have in common at their beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
