"""reasoning_bank: textual strategies distilled from agreeing and disagreeing traces (ReasoningBank, arXiv 2509.25140).

The source distils up to three items (title, description, content) from each task's trajectories, told apart into
successes and failures by a judge, and looks up the items of the k = 1 nearest past task. Here the vote tells them apart.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..prompts import strategies_messages, strategy_messages
from ..records import Problem
from .experiences import Experience
from .icl import majority_text
from .icl_refined import IclRefined
from .sampler import Ask, Sampled

MOST = 3
FIELD = re.compile(r"^[\s#*\-\d.)]*(title|description|content)\W*?:[\s*_]*(.*)$", re.IGNORECASE)


@dataclass(frozen=True)
class Strategy:
    """One item of the bank."""

    title: str
    description: str
    content: str

    def __str__(self) -> str:
        return f"Title: {self.title}\nDescription: {self.description}\nContent: {self.content}"


def parse(text: str) -> list[Strategy]:
    """The strategies in what the model wrote, at most three; those without a content are left out.

    A small model often ignores the form: then its whole text is one strategy.
    """
    items: list[dict[str, str]] = []
    name = ""
    for line in text.splitlines():
        if found := FIELD.match(line):
            name = found[1].lower()
            if not items or name == "title" or name in items[-1]:
                items.append({})
            items[-1][name] = found[2].strip(" *_")
        elif name and line.strip():
            items[-1][name] = f"{items[-1][name]} {line.strip()}".strip()
    whole = [Strategy(i.get("title", ""), i.get("description", ""), i["content"]) for i in items if i.get("content")]
    if not whole and not items and text.strip():
        whole = [Strategy("What was learnt", "", text.strip())]
    return whole[:MOST]


class ReasoningBank(IclRefined):
    """Keeps the strategies of each problem and shows those of the nearest."""

    def keep(self, voted: Sequence[tuple[Problem, Sampled]]) -> list[str]:
        asks = [Ask(p, messages=strategy_messages(p.text, majority_text(s), other_text(s))) for p, s in voted]
        return ["\n\n".join(map(str, parse(text))) for text in self.written(asks)]

    def messages(self, past: Experience, problem: Problem) -> list[dict[str, str]]:
        return strategies_messages(past.text, problem.text)


def other_text(sampled: Sampled) -> str | None:
    """The earliest trace that does not agree with the majority, one with an answer before one without; None if all do."""
    winners = set(sampled.vote.clusters[0].rows)
    others = sorted((t for t in sampled.traces if t.row not in winners), key=lambda t: (not t.votes, t.row))
    return others[0].text if others else None
