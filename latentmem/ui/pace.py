"""How long a run will take, judged by the newest ones on this machine. No gradio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..records import Side, Step, Trace, Vote
from ..settings import Settings

FAST_STEP = 0.25  # the same of recipe=fast, which only trains
STEP = 2.0  # votes' worth of time in a gradient step, before one was seen: it writes, then trains
LENGTH = 0.75  # tokens of the longest attempt, before one was seen, as a share of the most allowed


@dataclass
class Pace:
    """What the records of any run say about the machine. Rough on purpose: a visitor asks whether
    to wait or to fetch a coffee."""

    token: float = 0.0  # seconds for one more token of all attempts of a vote; 0: not known yet
    attempts: int = 8  # ... which were so many, on both sides
    length: float = 0.0  # tokens of the longest attempt of a vote
    step: float = 0.0  # seconds of a gradient step, in votes
    _ended: set[tuple[Side, int]] = field(default_factory=set)  # of the attempts at work

    def see(self, record: Any) -> None:
        """Learns from a record of a run."""
        if isinstance(record, Trace) and record.tokens and record.seconds:
            self.token = record.seconds / record.tokens
            self.length = max(record.tokens, 0.97 * self.length)
            if (record.side, record.row) in self._ended:
                self._ended.clear()
            self._ended.add((record.side, record.row))
        elif isinstance(record, Vote):
            sides = {side for side, _ in self._ended}
            self.attempts = max(record.total * len(sides), 1)
        elif isinstance(record, Step) and record.seconds_train and record.seconds_rollout:
            self.step = record.seconds / record.seconds_rollout

    def vote(self, s: Settings, attempts: int = 0) -> float | None:
        """Seconds until so many attempts have ended, by default those of the settings; None as
        long as nothing is known. Half of the time grows with their number: weights are read once
        for all."""
        if not self.token:
            return None
        length = min(s.max_new_tokens, self.length or LENGTH * s.max_new_tokens)
        return self.token * length * (0.5 + 0.5 * (attempts or s.rollouts) / self.attempts)

    def distil(self, s: Settings, voted: bool = False) -> float | None:
        """Seconds of the first vote, unless it is known already, the steps and the final check."""
        vote = self.vote(s)
        if vote is None:
            return None
        step = self.step or (STEP if s.recipe == "paper" else FAST_STEP)
        return vote * ((not voted) + s.steps * step + 1)

    def stream(self, s: Settings, systems: Sequence[str], problems: int) -> float | None:
        """Seconds until these systems have met so many problems and learnt from them."""
        vote, lesson = self.vote(s), self.distil(s)
        if vote is None or lesson is None:
            return None
        one, two = self.vote(s, 1) or 0.0, self.vote(s, 2) or 0.0
        each = {"zero_shot": one, "vote": vote, "icl_raw": one, "elm": two + lesson}
        return problems * sum(each[name] for name in systems)
