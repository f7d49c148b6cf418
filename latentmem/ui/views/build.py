"""A bank out of one's own problems, in words and a table. Pure; no gradio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ...engine.build import Outcome, Turn, summary
from ...engine.run_state import Scene
from ...records import Status, Vote
from ...settings import Settings
from ..pace import Pace
from .distillation import phase_words, share_done, time_left
from .html import (
    Fragment,
    count,
    doing,
    fragments,
    join,
    notice,
    progress,
    roughly,
    table,
)
from .receipt import open_link, vote_result


@dataclass
class Lessons:
    """The problems of a file, folded together from the records of a run. Stands in for `Scene` in
    a Run, and outlives it: the next press goes on where this one ended."""

    settings: Settings = field(default_factory=Settings)
    rows: list[Outcome] = field(default_factory=list)
    notes: tuple[str, ...] = ()  # what was left out of the file
    at: int | None = None  # the problem at work
    scene: Scene = field(default_factory=Scene)  # ... and what happens to it
    learning: bool = False  # the votes are in
    stopped: bool = False

    def add(self, record: Any) -> bool:
        """Takes a record; True if the page should be drawn at once."""
        if not isinstance(record, (Turn, Outcome)):
            return self.scene.add(record)
        self.at = next(i for i, row in enumerate(self.rows) if row.problem == record.problem)
        self.scene = Scene()
        if isinstance(record, Outcome):
            self.rows[self.at] = record
        return True

    @property
    def unvoted(self) -> list[int]:
        return [i for i, row in enumerate(self.rows) if row.vote is None and row.open]

    @property
    def fit(self) -> list[int]:
        """The problems that can be learnt from and were not yet."""
        return [i for i, row in enumerate(self.rows) if row.vote is not None and row.open]


def introduction(most: int) -> Markup:
    return notice(
        f"Drop a file of up to {count(most, 'problem')}. The model votes on all of them, and you "
        "see which it can learn from and how long that takes. Then it learns from one after the "
        "other and keeps each memory at once: stop whenever you like, and go on later."
    )


def button(lessons: Lessons) -> str:
    """What the button would do."""
    if lessons.unvoted:
        begun = any(row.vote for row in lessons.rows)
        return "Go on voting" if begun else f"Vote on {count(len(lessons.rows), 'problem')}"
    if lessons.fit:
        return f"Learn from {len(lessons.fit)}"
    return "Done" if lessons.rows else "Vote"


def doing_now(lessons: Lessons, pace: Pace) -> Markup:
    """One bar for the whole run, and what happens to the problem at work."""
    rows, scene, at = lessons.rows, lessons.scene, lessons.at
    if at is None:
        return progress(scene.status or Status("Starting…"))
    if not lessons.learning:
        done, now = sum(row.vote is not None or not row.open for row in rows), doing(scene).text
        words = f"Voting on problem {at + 1} of {len(rows)}"
        left = _times(pace.vote(lessons.settings), len(lessons.unvoted))
        share = done / len(rows)
    else:
        steps = lessons.settings.steps
        fits = [row for row in rows if row.vote is not None and not row.unfit and not row.known]
        done = sum(not row.open for row in fits)
        words = f"Learning from problem {at + 1}: {done} of {len(fits)} done"
        mine, others = time_left(scene), pace.distil(lessons.settings, voted=True)
        rest = _times(others, len(fits) - done - 1)
        left = None if rest is None else rest + (others or 0 if mine is None else mine)
        share = (done + share_done(scene, steps) * (done < len(fits))) / max(len(fits), 1)
        now = phase_words(scene, steps)[0]
    hint = now + (f". {roughly(left).capitalize()} left." if left is not None else "")
    line = Markup('<p class="hint">{}</p>').format(hint)
    return progress(Status(words, share, 1)) + line


def _times(one: float | None, n: int) -> float | None:
    return None if one is None else one * max(n, 0)


def standing(lessons: Lessons, pace: Pace) -> Markup:
    """How things stand while nothing runs: what there is to do and for how long, or the end."""
    rows, s = lessons.rows, lessons.settings
    if lessons.unvoted:
        seconds = _times(pace.vote(s), len(lessons.unvoted))
        words = f"{count(len(lessons.unvoted), 'problem')} to vote on{_about(seconds)}."
        return notice(("Stopped. " if lessons.stopped else "") + words)
    learnt = [row for row in rows if row.memory and not row.known]
    if lessons.fit:
        seconds, fit = _times(pace.distil(s, voted=True), len(lessons.fit)), len(lessons.fit)
        words = f"{fit} of {count(len(rows), 'problem')} can be learnt from"
        if learnt:
            words = f"{len(learnt)} of {count(len(rows), 'problem')} learnt, {fit} left"
        return notice(("Stopped. " if lessons.stopped else "") + words + f"{_about(seconds)}.")
    return notice(summary(rows, "kept on the map"), "good" if learnt else "info")


def _about(seconds: float | None) -> str:
    return "" if seconds is None else f", {roughly(seconds)}"


def lessons_table(lessons: Lessons, running: bool) -> list[Fragment]:
    """A line for each problem: its vote, and what became of it."""
    if not lessons.rows:
        return []
    lines = []
    for i, row in enumerate(lessons.rows):
        at_work = running and i == lessons.at and row.open
        text = Markup('<span class="tx">{}</span>').format(row.problem.text)
        lines.append((text, _vote(row.vote), _became(row, lessons, at_work)))
    heads = ("Problem", "Vote", "Outcome")
    return fragments(("lessons", table("Your problems", heads, lines, "lessons")))


def _vote(vote: Vote | None) -> Markup:
    return Markup("–") if vote is None else vote_result(vote, "no answer")


def _became(row: Outcome, lessons: Lessons, at_work: bool) -> Markup:
    if row.memory:
        words = "in the bank already" if row.known else "learnt: open it"
        return open_link(row.memory, words)
    if at_work:
        return Markup('<span class="chip">at work</span>')
    if row.nothing or row.unfit:
        return Markup('<span class="hint">{}</span>').format(row.nothing or row.unfit)
    if row.vote is None:
        return Markup("")
    return Markup('<span class="chip">passes</span>')


def left_out(lessons: Lessons) -> Markup:
    return join(map(notice, lessons.notes))
