"""The state of one run, folded from the engine's records, for a page or a terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..records import Delta, Distilled, Receipt, Retrieval, Side, Status, Step, Trace, Vote


@dataclass
class Row:
    """One rollout on the screen: its text so far, and its Trace once it has ended."""

    row: int
    side: Side
    text: str = ""
    trace: Trace | None = None


@dataclass
class Scene:
    """The state of one run. `add` takes every record; the views read the members.

    `colours` gives each answer a stable index in the palette: a cluster keeps its colour while
    others overtake it, and an answer has the same colour on both sides. `decided_after[side]` is
    the number of finished traces when the others could no longer change the majority. A side whose
    vote comes only after all traces, as in a distillation, has none.
    """

    total: int = 0
    status: Status | None = None
    sampling: bool = False  # rollouts have arrived since the last status or step
    rows: dict[tuple[Side, int], Row] = field(default_factory=dict)
    votes: dict[Side, Vote] = field(default_factory=dict)
    colours: dict[tuple[Side, int], int] = field(default_factory=dict)
    decided_after: dict[Side, int] = field(default_factory=dict)
    undecided: set[Side] = field(default_factory=set)  # sides with a vote that was still open
    retrieval: Retrieval | None = None
    steps: list[Step] = field(default_factory=list)
    round: int = 1  # the gradient step that the newest rollouts are for; then the final check
    receipt: Receipt | None = None
    distilled: Distilled | None = None
    stopped: bool = False

    def add(self, record: Any) -> bool:
        """Take one record. True if it should be shown at once, False if it can wait for the next
        refresh."""
        if isinstance(record, (Delta, Trace, Status, Step)):
            self.sampling = isinstance(record, (Delta, Trace))
        if self.sampling:
            self.round = len(self.steps) + 1
        if isinstance(record, Delta):
            self._delta(record)
            return False
        if isinstance(record, Trace):
            self._new_round(record.side, record.row)
            self.rows[record.side, record.row] = Row(record.row, record.side, record.text, record)
            return False
        if isinstance(record, Vote):
            self._vote(record)
            return False
        if isinstance(record, Status):
            news = self.status is None or self.status.text != record.text
            self.status = record
            return news
        if isinstance(record, Step):
            self.steps.append(record)
        elif isinstance(record, Retrieval):
            self.retrieval = record
        elif isinstance(record, Receipt):
            self.receipt = record
        elif isinstance(record, Distilled):
            self.distilled = record
        return True

    def side(self, side: Side) -> Iterator[Row]:
        """The rollouts of one side in the order of their row."""
        return (self.rows[key] for key in sorted(self.rows) if key[0] == side)

    def colour(self, row: Row) -> int | None:
        """The palette index of the answer that this rollout voted for; None without a vote."""
        return self.colours.get((row.side, row.row))

    def finished(self, side: Side) -> int:
        return sum(r.trace is not None for r in self.side(side))

    @property
    def distilling(self) -> bool:
        """True with a first vote and fresh rollouts but no retrieval: only a distillation is so."""
        return self.retrieval is None and {side for side, _ in self.rows} >= {"zero_shot", "memory"}

    def _delta(self, d: Delta) -> None:
        self._new_round(d.side, d.row)
        self.rows.setdefault((d.side, d.row), Row(d.row, d.side)).text += d.text

    def _new_round(self, side: Side, row: int) -> None:
        """If a rollout that has ended begins again, drop the side's old rollouts: a gradient step
        has fresh ones."""
        old = self.rows.get((side, row))
        if old is None or old.trace is None:
            return
        for members in (self.rows, self.colours):
            for key in [k for k in members if k[0] == side]:
                del members[key]
        self.votes.pop(side, None)
        self.decided_after.pop(side, None)
        self.undecided.discard(side)

    def _vote(self, vote: Vote) -> None:
        self.votes[vote.side] = vote
        self.total = max(self.total, vote.total)
        done = self.finished(vote.side)
        if not vote.decided:
            self.undecided.add(vote.side)
        elif (
            vote.clusters
            and vote.side not in self.decided_after
            and (vote.side in self.undecided or done < vote.total)
        ):
            self.decided_after[vote.side] = done
        by_answer = {
            answer: index for key, index in self.colours.items() if (answer := self._answer(key))
        }
        for cluster in vote.clusters:
            known = [
                self.colours[vote.side, r] for r in cluster.rows if (vote.side, r) in self.colours
            ]
            fresh = max(self.colours.values(), default=-1) + 1
            index = known[0] if known else by_answer.get(plain(cluster.answer), fresh)
            for r in cluster.rows:
                self.colours[vote.side, r] = index
            by_answer.setdefault(plain(cluster.answer), index)

    def _answer(self, key: tuple[Side, int]) -> str:
        row = self.rows.get(key)
        return plain(row.trace.answer) if row and row.trace and row.trace.answer is not None else ""


def plain(answer: str) -> str:
    """An answer without blanks. That gives equal spellings one colour; the vote decides what is
    equivalent."""
    return "".join(answer.split())
