"""What every verifier says about a disagreement, so that each one's routing accuracy can be computed afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from ..records import Problem
from ..verifier import VerifierName, score
from .base import Cost
from .sampler import Sampled, Sampler

VERIFIERS: tuple[VerifierName, ...] = ("vote_share", "self_certainty", "judge")


def all_scores(sampler: Sampler, problem: Problem, sides: Mapping[str, Sampled], verifiers: Sequence[VerifierName],
               paid: VerifierName) -> tuple[dict[str, dict[str, float]], Cost]:
    """Verifier -> side -> score, and what the one that routes, `paid`, cost. The others are asked for the record only.

    Both sides have an answer. Vote share and self-certainty cost nothing, they come with the traces.
    """
    scores, cost = {}, Cost()
    for name in dict.fromkeys([*verifiers, paid]):
        began = time.perf_counter()
        scores[name] = {side: score(name, sampler.model, problem, s.traces, s.vote) for side, s in sides.items()}
        if name == paid == "judge":
            read = sum(s.vote.clusters[0].size for s in sides.values()) * len(sampler.model.render(
                [{"role": "user", "content": problem.text}])) + sum(
                t.tokens for s in sides.values() for t in s.traces if t.row in s.vote.clusters[0].rows)
            cost = Cost(0, read, time.perf_counter() - began)
    return scores, cost
