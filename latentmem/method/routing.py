"""Which side answers: the model alone, or the model with a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..model.language_model import LanguageModel, Prompt
from ..records import Problem, Route, Side, Trace, VerifierName, Vote
from .answers import same_answer
from .prompts import judge_messages


def disagree(zero_shot: Vote, memory: Vote | None) -> bool:
    """True if both sides have an answer and these differ. Only then a verifier is needed."""
    if memory is None or zero_shot.label is None or memory.label is None:
        return False
    return not same_answer(zero_shot.label, memory.label)


def route(
    zero_shot: Vote,
    memory: Vote | None,
    scores: Mapping[str, float] | None = None,
    *,
    verifier: str = "",
    skip_reason: str = "",
    probation: str = "",
) -> Route:
    """Choose a side (paper, routing): an agreement is the answer; else the side with the higher
    score.

    `memory` is None when no memory was tried, and `skip_reason` says why. `scores` (side -> score)
    are needed only where `disagree(...)`. A tie goes to the model alone, so that a memory answers
    only if something speaks for it. One on `probation`, a sentence, never answers, and needs none.
    """
    side: Side | None
    a = zero_shot.label
    if memory is None:
        return Route(
            "zero_shot" if a is not None else None,
            a,
            False,
            skip_reason or "The model answered alone.",
        )
    b = memory.label
    if probation:
        same = a is not None and b is not None and not disagree(zero_shot, memory)
        reason = "Both sides gave the same answer." if same else "The model's own answer stands."
        side = None if a is None else "zero_shot"
        return Route(side, a, same, f"{reason} {probation}", probation=probation)
    if a is None and b is None:
        return Route(None, None, False, "Neither side finished an attempt with a boxed answer.")
    if a is None:
        return Route("memory", b, False, "Only the side with the memory finished with an answer.")
    if b is None:
        return Route("zero_shot", a, False, "No attempt with the memory finished with an answer.")
    if not disagree(zero_shot, memory):
        return Route("zero_shot", a, True, "Both sides gave the same answer.")
    assert scores is not None and set(scores) == {"zero_shot", "memory"}, (
        "a disagreement needs both scores"
    )
    side = "memory" if scores["memory"] > scores["zero_shot"] else "zero_shot"
    if verifier == "vote_share":
        alone, helped = (f"{v.clusters[0].size} of {v.total}" for v in (zero_shot, memory))
    else:
        alone, helped = (f"score {scores[s]:.3g}" for s in ("zero_shot", "memory"))
    who = "with the memory" if side == "memory" else "of the model alone"
    if scores["memory"] == scores["zero_shot"]:
        reason = f"Tie ({alone} each), so the model's own answer stands."
    else:
        reason = (
            f"The sides disagree: {a} alone ({alone}), {b} with the memory ({helped}). "
            f"The verifier chose the answer {who}."
        )
    return Route(side, b if side == "memory" else a, False, reason, dict(scores), verifier)


def decide(
    model: LanguageModel,
    problem: Problem,
    traces: Sequence[Trace],
    votes: Mapping[Side, Vote],
    verifier: VerifierName,
    skip_reason: str = "",
    probation: str = "",
) -> Route:
    """The route of an answer from its traces and the vote of each side, scored by the verifier
    where the sides disagree and it decides."""
    alone, helped = votes["zero_shot"], votes.get("memory")
    name = chosen(verifier, alone.total)
    scores: dict[str, float] | None = None
    if not probation and disagree(alone, helped):
        scores = {
            side: score(name, model, problem, [t for t in traces if t.side == side], v)
            for side, v in votes.items()
        }
    return route(alone, helped, scores, verifier=name, skip_reason=skip_reason, probation=probation)


def settled(
    votes: Mapping[Side, Vote],
    still_open: Mapping[Side, int],
    verifier: VerifierName,
    probation: str = "",
) -> bool:
    """True if no outcome of the open traces, so many a side, can change the answer or the side that
    `decide` takes it from.

    Both labels must be decided. Where they differ and the shares decide, these must not be able to
    cross. Another verifier reads all traces of the winners, so nothing is settled before their end.
    """
    alone, helped = votes["zero_shot"], votes.get("memory")
    if not all(v.decided for v in votes.values()):
        return False
    if helped is None or probation or not disagree(alone, helped) or not any(still_open.values()):
        return True
    if chosen(verifier, alone.total) != "vote_share":
        return False
    a, b = alone.clusters[0].size, helped.clusters[0].size
    return b > a + still_open["zero_shot"] or b + still_open["memory"] <= a


# ---------- The score of a side's answer, from the traces of its winning cluster. Higher is better.

SEAM = 8  # a text that was cut may have so many more tokens when it is tokenised again


def score(
    name: VerifierName, model: LanguageModel, problem: Problem, traces: Sequence[Trace], vote: Vote
) -> float:
    """The score of one side's majority answer.

    `vote_share`: its share of all rollouts, 0..1. `self_certainty`: mean KL from the uniform
    distribution over its traces, nats (Intuitor, arXiv 2505.19590). `judge`: the base model's mean
    probability of Yes against No when asked whether the solution is right, 0..1. Compare only
    scores of the same verifier.
    """
    assert vote.clusters, "a side that abstained is not scored"
    rows = set(vote.clusters[0].rows)
    winners = [t for t in traces if t.row in rows]
    if name == "vote_share":
        return vote.majority_ratio
    if name == "self_certainty":
        certainties = [t.self_certainty for t in winners]
        assert None not in certainties, "sampled traces carry their self-certainty"
        return sum(certainties) / len(certainties)  # type: ignore[arg-type]
    if name == "judge":
        return judge(model, problem, [t.text for t in winners])
    raise ValueError(f"Verifier {name!r} is unknown: use vote_share, self_certainty or judge.")


def chosen(name: VerifierName, traces: int) -> VerifierName:
    """The verifier for so many traces a side. With one trace a side the votes always tie, so the
    judge decides.

    In 66 disagreements with one side right (300 problems of MultiArith, qwen2.5-coder-0.5b, one
    greedy trace a side), the judge took the right side 45 times, self-certainty 28 times, and the
    tie that goes to the model alone 25 times. The judge was picked on 29 of these; on the other 37
    it took the right side 27 times.
    """
    return "judge" if name == "vote_share" and traces == 1 else name


def judge(model: LanguageModel, problem: Problem, solutions: Sequence[str]) -> float:
    """Mean over solutions of p(Yes) / (p(Yes) + p(No)) as the judging chat's next token, 0..1."""
    ids = [
        model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No")
    ]
    chats = [Prompt(_judging(model, problem.text, s)) for s in dict.fromkeys(solutions)]
    p = model.next_token_probs(chats, ids)  # [solutions, 2]
    return float((p[:, 0] / p.sum(1)).mean())


def _judging(model: LanguageModel, problem: str, solution: str) -> tuple[int, ...]:
    """The judging chat as tokens. If it exceeds the model's context, the solution loses its
    beginning, since the answer stands at the end."""
    ids = model.render(judge_messages(problem, solution))
    if len(ids) > model.context:
        written = model.tokenizer(solution, add_special_tokens=False)["input_ids"]
        kept = written[len(ids) - model.context + SEAM :]
        ids = model.render(judge_messages(problem, model.tokenizer.decode(kept)))
    return ids
