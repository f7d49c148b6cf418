"""Your own problems: a file of them becomes a bank of memories. First all are voted on, then those
whose vote is fit are learnt from; each memory is kept as soon as it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ...engine.build import Outcome, build
from ...evaluation.datasets import unique
from ...evaluation.reader import Found, problems_in, stem
from ...records import LatentmemError, Problem
from ...settings import Settings
from .. import components
from ..components import QUIET, SAMPLING, TRAINING
from ..runs import Run
from ..session import AppSession, Visit, attempt, exclusively, ready_engine
from ..views.build import (
    Lessons,
    button,
    doing_now,
    introduction,
    left_out,
    lessons_table,
    standing,
)
from ..views.html import fragments, notice
from .panel import SKIP, Panel, queued, sent, told

MOST, MOST_HOSTED = 20, 4  # problems of a file, also in a shared app
FILE_BYTES = 1_000_000
FILE_TYPES = [".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet", ".gz"]
NAMED = 3  # problems that were left out and are named


def most_problems(hosted: bool) -> int:
    """So many are taken of a file."""
    return MOST_HOSTED if hosted else MOST


def read(file: Path, most_chars: int, most: int) -> tuple[list[Problem], tuple[str, ...]]:
    """The first `most` problems of a file, and what was left out. They need no answers: a plain
    text has one problem a line, or a blank line between two.

    Raises LatentmemError for a file that holds none.
    """
    data = sent(file, FILE_BYTES)
    plain = file.suffix.lower() == ".txt"
    found = list(lines(data, file.name) if plain else problems_in(data, file.name, FILE_BYTES))
    wrong = [one for _, one in found if isinstance(one, str)]
    fit: list[Problem] = []
    for where, one in found:
        if isinstance(one, Problem) and len(one.text) > most_chars:
            wrong.append(f"{where}: the problem has more than {most_chars} characters: shorten it.")
        elif isinstance(one, Problem):
            fit.append(one if one.source else replace(one, source=stem(file.name)))
    fit = unique(fit)
    if not fit:
        raise LatentmemError(
            f"{file.name} has no problem to learn from: write one a line."
            + (f" {wrong[0]}" if wrong else "")
        )
    more = f" (and {len(wrong) - NAMED} more)" if len(wrong) > NAMED else ""
    notes = [f"Left out {len(wrong)}: " + " ".join(wrong[:NAMED]) + more] if wrong else []
    if len(fit) > most:
        notes.append(f"The file has {len(fit)} problems: the first {most} are taken.")
    return fit[:most], tuple(notes)


def lines(data: bytes, name: str) -> Iterator[Found]:
    """The problems of a plain text. Raises LatentmemError for what is none."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise LatentmemError(f"{name} is not UTF-8 text: save it as UTF-8.") from None
    blank = r"\n\s*\n" if re.search(r"\S\s*\n\s*\n\s*\S", text) else r"\n"
    for n, part in enumerate(filter(str.strip, re.split(blank, text)), 1):
        yield f"{name}, problem {n}", Problem(part.strip())


def records(session: AppSession, lessons: Lessons, settings: dict[str, Any]) -> Iterator[Any]:
    """Everything from a press to its end: the votes, or once they are in the memories."""
    engine = yield from ready_engine(session, settings)
    votes_only = bool(lessons.unvoted)
    todo = [lessons.rows[i].problem for i in (lessons.unvoted or lessons.fit)]
    yield from build(engine, todo, votes_only=votes_only)


class BuildView(NamedTuple):
    """What the page shows of the problems: one update for each component of that name."""

    status: Any = SKIP
    table: Any = SKIP
    press_button: Any = SKIP
    stop_button: Any = SKIP


class Build(Panel):
    """A file, its votes, its memories; stop, go on."""

    name = "build"
    View, Scene = BuildView, Lessons
    controls: dict[str, gr.components.Component] = {}  # noqa: RUF012  # those of Solve and Distil

    # ---------- the layout

    def create(self, settings: Settings) -> None:
        """The panel, below the one of a single problem."""
        most = most_problems(settings.hosted)
        with gr.Row(elem_classes="split"):
            with gr.Column(scale=5, min_width=320, elem_classes="lm-panel ask"):
                self.file = gr.File(
                    label="Your own problems (text, JSONL, CSV, Parquet)",
                    file_types=FILE_TYPES,
                    type="filepath",
                    elem_id="lm-build-file",
                    elem_classes="lm-file",
                    height=150,
                )
                self.buttons("Vote", "lm-build", "lm-build-stop", ready=False)
            with gr.Column(scale=8, min_width=320, elem_classes="result"):
                begin = fragments(("first", introduction(most)))
                self.status = components.live("lm-build-status", begin)
                self.table = components.live("lm-build-table")

    # ---------- what is asked

    def asked(self, *given: Any) -> dict[str, Any]:
        """The settings of a run."""
        return components.overrides((*SAMPLING, *TRAINING), given)

    def validate(self, session: AppSession, asked: dict[str, Any]) -> str:
        return attempt(lambda: session.tuned(asked))[1]

    def look(self, file: str | None, request: gr.Request, *given: Any) -> BuildView:
        """A file was dropped: what is in it, before anything runs."""
        session, visit = self.of(request)
        if visit.busy(self.name):
            return BuildView()
        run, settings = visit.start(self.name, Lessons()), session.engine.settings
        if file:
            most = most_problems(session.hosted)
            found, run.error = attempt(lambda: read(Path(file), settings.max_problem_chars, most))
            rows, notes = found or ([], ())
            run.scene = Lessons(settings, [Outcome(p) for p in rows], notes)
        return self.draw(session, visit, run, False)

    def new_run(self, visit: Visit, asked: dict[str, Any]) -> Run:
        """Goes on with the same problems. Votes of other settings do not count."""
        before = visit.runs.get(self.name)
        run = super().new_run(visit, asked)
        run.scene = before.scene if before is not None else run.scene
        return run

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[BuildView]:
        lessons = run.scene
        settings = session.tuned(run.asked).settings
        if settings != lessons.settings:
            rows = lessons.rows
            rows[:] = [row if row.memory else Outcome(row.problem) for row in rows]
        lessons.settings, lessons.at, lessons.stopped = settings, None, False
        lessons.learning = not lessons.unvoted
        stream = exclusively(session, records(session, lessons, run.asked))
        return self.pictures(session, visit, run, stream)

    # ---------- what is shown

    def draw(
        self, session: AppSession, visit: Visit, run: Run, running: bool, message: str = ""
    ) -> BuildView:
        with run.lock:
            lessons = run.scene
            ended = introduction(most_problems(session.hosted))
            if lessons.rows:
                ended = notice(message) + standing(lessons, session.pace)
            now = doing_now(lessons, session.pace) if running else None
            todo = bool(lessons.unvoted or lessons.fit)
            return BuildView(
                status=told(run, now, ended) + fragments(("notes", left_out(lessons))),
                table=lessons_table(lessons, running),
                press_button=gr.update(value=button(lessons), interactive=todo and not running),
                stop_button=gr.update(interactive=running),
            )

    def waiting(self, session: AppSession, visit: Visit, ahead: int = 0) -> BuildView:
        """The table stays: the votes in it are what the press is about."""
        return BuildView(
            status=queued(ahead),
            press_button=gr.update(interactive=False),
            stop_button=gr.update(interactive=True),
        )

    def restored(self, session: AppSession, visit: Visit) -> dict[str, Any]:
        shown, run = super().restored(session, visit), self.standing(visit)
        if run is not None and run.pressed:
            shown["table"] = lessons_table(run.scene, False)
        return shown

    # ---------- the wiring

    def wire(self, settings: list[Any]) -> Any:
        """Listens to everything on the panel; `settings`: the controls of Solve and of Distil.
        Returns the work of a press."""
        for touched in (self.file.upload, self.file.clear, self.file.delete):
            touched(self.look, self.file, self.outputs, **QUIET)
        run = self.follow_press(
            self.press_button.click(self.press, settings, self.outputs, **QUIET)
        )
        self.stop_button.click(self.stop, None, self.outputs, cancels=[run], **QUIET)
        return run
