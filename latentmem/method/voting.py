"""Answers -> Vote: which answer most traces agree on, whether it can still change, whether to learn
from it.

No ground truth here. A trace votes if it reached end-of-sequence with a boxed answer
(`Trace.votes`).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..records import Cluster, Side, Trace, Vote
from .answers import same_answer


def vote(traces: Sequence[Trace], total: int | None = None, side: Side = "zero_shot") -> Vote:
    """The majority vote of one side: over `total` traces (default: those given), of which `traces`
    have ended.

    A trace joins the oldest cluster whose earliest answer is the same as its own, or founds one.
    `same_answer` is not transitive in theory (see `answers.py`), so two members of a cluster may
    differ; taking the traces by row makes the outcome independent of the order in which they ended.
    The label is the earliest row's answer as written; a tie goes to the earliest row. `traces` have
    distinct rows.
    """
    traces = sorted(traces, key=lambda t: t.row)
    rows = [t.row for t in traces]
    total = len(traces) if total is None else total
    assert len(set(rows)) == len(rows), f"two traces share a row: {rows}"
    assert len(traces) <= total, f"{len(traces)} traces of {total}"
    groups: list[tuple[str, list[int]]] = []
    for trace in traces:
        if not trace.votes or trace.answer is None:
            continue
        for answer, members in groups:
            if same_answer(answer, trace.answer):
                members.append(trace.row)
                break
        else:
            groups.append((trace.answer, [trace.row]))
    clusters = sorted((Cluster(answer, tuple(members)) for answer, members in groups), key=_rank)
    return Vote(
        clusters=tuple(clusters),
        total=total,
        voters=sum(c.size for c in clusters),
        decided=_decided(clusters, rows, total),
        side=side,
    )


def _rank(cluster: Cluster) -> tuple[int, int]:
    return -cluster.size, cluster.rows[0]


def _decided(clusters: Sequence[Cluster], rows: Sequence[int], total: int) -> bool:
    """True if no outcome of the open traces can make another answer the label.

    Exact where `same_answer` is transitive. In the worst case all open traces give one rival's
    answer, or all the same new one. Another spelling of the winning answer is not another answer.
    """
    still_open = total - len(rows)
    if still_open == 0:
        return True
    if not clusters:
        return False
    open_rows = set(range(total)).difference(rows)
    # Rows not numbered 0 .. total - 1 do not show which ones are open: then any tie may be lost.
    earliest = min(open_rows) if len(open_rows) == still_open else -1
    rivals = [(-c.size - still_open, min(c.rows[0], earliest)) for c in clusters[1:]]
    return _rank(clusters[0]) < min(rivals, default=(-still_open, earliest))


def gate(vote: Vote, votes: int, lead: int) -> str | None:
    """One sentence that says why not to learn from a vote; None if it may be learnt from.

    At least `votes` traces must agree and lead the runner-up by at least `lead` (SCRL, arXiv
    2603.19880), and the rewards must differ: equal rewards have no gradient. Seven of eight pass if
    the eighth did not finish, since its reward is 0.
    """
    most = vote.clusters[0].size if vote.clusters else 0
    return unfit(most, vote.margin, vote.total, votes, lead)


def unfit(most: int, margin: int, total: int, votes: int, lead: int) -> str | None:
    """`gate` for counts alone: `most` of `total` agree, `margin` more than on the runner-up."""
    if not most:
        return f"Nothing to learn: no attempt of {total} finished with a boxed answer."
    if most == total == 1:
        return "Nothing to learn: a single attempt has no other to compare with."
    if most == total:
        return f"Nothing to learn: all {total} attempts already agree."
    if most < votes:
        has = f"the majority has {_votes(most)} of {total} and needs {votes}"
        return f"The vote is too weak to learn from: {has}."
    if margin < lead:
        leads = f"the majority leads by {_votes(margin)} and needs {lead}"
        return f"The vote is too close to learn from: {leads}."
    return None


def verdict_stands(vote: Vote, still_open: int, votes: int, lead: int) -> bool:
    """True if no outcome of the open traces can change whether `gate` lets the vote through.

    For a vote whose label is decided: the verdict is the same in the worst case, where all open
    traces give the runner-up's answer, and in the best, where all give the winner's. Where that
    makes the vote unanimous, the best case is one silent trace less.
    """
    if still_open == 0:
        return True
    if not vote.decided:
        return False
    most, lone = vote.clusters[0].size, vote.clusters[0].size + still_open == vote.total
    more = still_open - lone
    best = unfit(most + more, vote.margin + more, vote.total, votes, lead)
    if best is not None:
        return True
    return not lone and unfit(most, vote.margin - still_open, vote.total, votes, lead) is None


def _votes(n: int) -> str:
    return "1 vote" if n == 1 else f"{n} votes"


def majority_rewards(traces: Sequence[Trace], vote: Vote) -> tuple[float, ...]:
    """1.0 for each trace in the winning cluster of its vote, else 0.0, in the order of the rows
    (TTRL, arXiv 2504.16084)."""
    winners = set(vote.clusters[0].rows) if vote.clusters else set()
    return tuple(float(t.row in winners) for t in sorted(traces, key=lambda t: t.row))
