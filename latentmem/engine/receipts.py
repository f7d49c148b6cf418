"""The receipt of an answer, and the events that it adds to the memories. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ..method.answers import same_answer
from ..records import (
    Event,
    EventKind,
    Hit,
    KeyKind,
    LatentmemError,
    Problem,
    Receipt,
    Route,
    Side,
    Trace,
    Vote,
    digest,
)

# The settings that decide an answer. A receipt carries them, and a replay uses them.
REPLAYED = (
    "rollouts",
    "temperature",
    "top_p",
    "max_new_tokens",
    "key",
    "k",
    "min_similarity",
    "verifier",
    "seed",
    "stop_when_decided",
    "gate_votes",  # with stop_when_decided they say when sampling stops
    "gate_lead",
)


def now() -> str:
    """The time as records carry it: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Circumstances:
    """What was fixed before the answer: the model, the settings for a replay, and what retrieval
    found."""

    model: str  # fingerprint
    model_name: str
    settings: Mapping[str, Any]
    seed: int
    key_kind: KeyKind
    hits: tuple[Hit, ...]
    used: Hit | None


def write(
    problem: Problem,
    around: Circumstances,
    chosen: Route,
    votes: Mapping[Side, Vote],
    traces: Sequence[Trace],
    seconds: float,
    created: str,
) -> Receipt:
    """The Receipt. `token_digest` is over every trace's token ids, the model's own side first, in
    row order."""
    ordered = sorted(traces, key=lambda t: (t.side != "zero_shot", t.row))
    written = digest(*(f"{t.side} {t.row} {' '.join(map(str, t.token_ids))}" for t in ordered))
    used = around.used
    # Those that were not waited for have as many tokens as the one that decided: all grow together.
    left = sum(v.total for v in votes.values()) - len(ordered)
    left *= bool(around.settings.get("stop_when_decided"))
    answered = used if used and chosen.side == "memory" else None
    return Receipt(
        id="r" + digest(problem.id, problem.text, written, created)[:16],
        problem=problem,
        answer=chosen.answer,
        memory_id=answered.memory_id if answered else None,
        memory_name=answered.name if answered else "",
        hits=around.hits,
        used=used,
        key_kind=around.key_kind,
        zero_shot=votes["zero_shot"],
        memory=votes.get("memory"),
        route=chosen,
        seed=around.seed,
        model=around.model,
        model_name=around.model_name,
        tokens=sum(t.tokens for t in ordered) + left * max((t.tokens for t in ordered), default=0),
        seconds=seconds,
        settings=around.settings,
        token_digest=written,
        traces=tuple(ordered),
        created=created,
    )


def confirm(receipt: Receipt, again: Receipt) -> None:
    """Raise LatentmemError if a replay differs from its receipt."""
    if again.token_digest != receipt.token_digest:
        raise LatentmemError(
            f"The replay of receipt {receipt.id} gave other tokens: another machine, device, "
            "dtype, library version or batch computes slightly different numbers; compare the two "
            "answers instead."
        )
    if (again.answer, again.route.side) != (receipt.answer, receipt.route.side):
        raise LatentmemError(
            f"The replay of receipt {receipt.id} gave the same tokens, but the answer "
            f"{again.answer} in place of {receipt.answer}: the receipt was changed, or this "
            "version reads answers differently."
        )


def _event(receipt: Receipt, memory_id: str, kind: EventKind, **detail: Any) -> Event:
    return Event(
        memory_id, kind, problem_id=receipt.problem.id, receipt_id=receipt.id, detail=detail
    )


def events(receipt: Receipt) -> list[Event]:
    """What the memories did for this answer: retrieved, used, agreed, verifier_won."""
    out = [
        _event(
            receipt,
            h.memory_id,
            "retrieved",
            similarity=h.similarity,
            rank=h.rank,
            **({"passed_over": h.passed_over} if h.passed_over else {}),
        )
        for h in receipt.hits
    ]
    if receipt.used:
        out.append(
            _event(receipt, receipt.used.memory_id, "used", answered=receipt.memory_id is not None)
        )
        if receipt.route.agreed:
            out.append(_event(receipt, receipt.used.memory_id, "agreed"))
        elif receipt.memory_id and receipt.route.scores:
            out.append(_event(receipt, receipt.memory_id, "verifier_won", **receipt.route.scores))
    return out


def judged(receipt: Receipt, correct: bool, before: Sequence[Event] = ()) -> list[Event]:
    """The events of a verdict on an answer, for the memory that was tried, if any.

    A memory that answered helped or hurt only if the model alone would have answered something
    else; a wrong answer takes nothing from a model that had none. A person or a benchmark gives the
    verdict afterwards. `before`: the verdicts so far. A repeated verdict adds no events; one that
    contradicts an earlier one raises LatentmemError, since events are never taken back.
    """
    if receipt.used is None:
        return []
    earlier = next((e for e in before if e.kind == "feedback" and e.receipt_id == receipt.id), None)
    if earlier is not None:
        if bool(earlier.detail.get("correct")) != correct:
            first = "right" if earlier.detail.get("correct") else "wrong"
            raise LatentmemError(
                f"This answer was judged {first} before, and the first verdict stays: solve the "
                "problem again to judge anew."
            )
        return []
    out = [_event(receipt, receipt.used.memory_id, "feedback", correct=correct)]
    alone = receipt.zero_shot.label
    if (
        receipt.memory_id
        and (correct or alone is not None)
        and not same_answer(alone or "", receipt.answer or "")
    ):
        out.append(_event(receipt, receipt.memory_id, "helped" if correct else "hurt"))
    return out
