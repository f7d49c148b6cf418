"""Your own problems: a file of them becomes a bank of memories. First all are voted on, then those
whose vote is fit are learnt from; each memory is kept as soon as it is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ...evaluation.datasets import unique
from ...evaluation.reader import Found, problems_in, stem
from ...records import LatentmemError, Problem
from ...settings import Settings
from .. import components
from ..components import QUIET, SAMPLING, TRAINING
from ..runs import Run, follow
from ..session import AppSession, Visit, attempt, exclusively, ready_engine
from ..views.build import (
    Lesson,
    Lessons,
    Turn,
    button,
    doing_now,
    introduction,
    left_out,
    lessons_table,
    standing,
)
from ..views.html import fragments, notice
from .panel import SKIP, Panel, problem, queued

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
    try:
        if file.stat().st_size > FILE_BYTES:
            raise LatentmemError(f"{file.name} has more than 1 MB: give a part of it.")
        data = file.read_bytes()
    except OSError:
        raise LatentmemError(f"{file.name} cannot be read: upload it again.") from None
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
    rows, learn = lessons.rows, not lessons.unvoted
    for i in lessons.fit if learn else lessons.unvoted:
        here = engine.bank.infos(text=rows[i].problem.text, model=engine.model.fingerprint)
        known = [one.id for one in here if one.problem.text == rows[i].problem.text]
        yield Turn(i, known[0] if known else "")
        if known:
            continue
        if learn:
            engine.bank.check_room()
            yield from engine.distil(rows[i].problem)
        else:
            yield from engine.think(rows[i].problem)


@dataclass(frozen=True)
class Building:
    """What a press asks."""

    settings: dict[str, Any] = field(default_factory=dict)


class BuildView(NamedTuple):
    """What the page shows of the problems: one update for each component of that name."""

    status: Any = SKIP
    table: Any = SKIP
    press_button: Any = SKIP
    stop_button: Any = SKIP


class Build(Panel):
    """A file, its votes, its memories; stop, go on."""

    name = "build"
    View, Asked = BuildView, Building
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
                with gr.Row(elem_classes="tight"):
                    self.press_button = gr.Button(
                        "Vote",
                        variant="primary",
                        interactive=False,
                        elem_id="lm-build",
                        min_width=110,
                    )
                    self.stop_button = gr.Button(
                        "Stop",
                        variant="stop",
                        interactive=False,
                        elem_id="lm-build-stop",
                        min_width=110,
                    )
            with gr.Column(scale=8, min_width=320, elem_classes="result"):
                begin = fragments(("first", introduction(most)))
                self.status = components.live("lm-build-status", begin)
                self.table = components.live("lm-build-table")

    # ---------- what is asked

    def asked(self, *given: Any) -> Building:
        return Building(components.overrides((*SAMPLING, *TRAINING), given))

    def validate(self, session: AppSession, asked: Building) -> str:
        return attempt(lambda: session.tuned(asked.settings))[1]

    def look(self, file: str | None, request: gr.Request, *given: Any) -> BuildView:
        """A file was dropped: what is in it, before anything runs."""
        session, visit = self.of(request)
        if visit.busy(self.name):
            return BuildView()
        run = visit.start(self.name)
        settings = session.engine.settings
        run.scene = Lessons(settings)  # type: ignore[assignment]
        if file:
            most = most_problems(session.hosted)
            found, run.error = attempt(lambda: read(Path(file), settings.max_problem_chars, most))
            rows, notes = found or ([], ())
            run.scene = Lessons(settings, [Lesson(p) for p in rows], notes)  # type: ignore[assignment]
        return self.draw(session, visit, run, False)

    def new_run(self, visit: Visit, asked: Building) -> Run:
        """Goes on with the same problems. Votes of other settings do not count."""
        before = visit.runs.get(self.name)
        run = super().new_run(visit, asked)
        run.scene = lessons_of(before) if before is not None else Lessons(Settings())  # type: ignore[assignment]
        return run

    def work(self, session: AppSession, visit: Visit, run: Run) -> Iterator[BuildView]:
        lessons = lessons_of(run)
        settings = session.tuned(run.asked.settings).settings
        if settings != lessons.settings:
            for row in lessons.rows:
                if not row.memory:
                    row.vote, row.unfit, row.nothing = None, "", ""
        lessons.settings, lessons.at, lessons.stopped = settings, None, False
        lessons.learning = not lessons.unvoted
        yield self.draw(session, visit, run, True)
        stream = exclusively(session, records(session, lessons, run.asked.settings))
        for _ in follow(stream, run):
            yield self.draw(session, visit, run, True)
        yield self.draw(session, visit, run, False)

    # ---------- what is shown

    def draw(
        self, session: AppSession, visit: Visit, run: Run, running: bool, message: str = ""
    ) -> BuildView:
        with run.lock:
            lessons = lessons_of(run)
            if run.error:
                status = problem(run.error)
            elif running:
                status = fragments(("status", doing_now(lessons, session.pace)))
            elif not lessons.rows:
                status = fragments(("first", introduction(most_problems(session.hosted))))
            else:
                said = notice(message) + standing(lessons, session.pace)
                status = fragments(("said", said))
            status = fragments(("refused", notice(run.refusal, "warn"))) + status
            todo = bool(lessons.unvoted or lessons.fit)
            return BuildView(
                status=status + fragments(("notes", left_out(lessons))),
                table=lessons_table(lessons, running),
                press_button=gr.update(value=button(lessons), interactive=todo and not running),
                stop_button=gr.update(interactive=running),
            )

    def waiting(self) -> BuildView:
        """The table stays: the votes in it are what the press is about."""
        return BuildView(
            status=queued(),
            press_button=gr.update(interactive=False),
            stop_button=gr.update(interactive=True),
        )

    def form(self, asked: Building) -> dict[str, Any]:
        return {}

    def restored(self, session: AppSession, visit: Visit) -> dict[str, Any]:
        shown, run = super().restored(session, visit), self.standing(visit)
        if run is not None and run.pressed:
            shown["table"] = lessons_table(lessons_of(run), False)
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


def lessons_of(run: Run) -> Lessons:
    """What the visitor sees of their problems; of a run without a file, none."""
    return run.scene if isinstance(run.scene, Lessons) else Lessons(Settings())
