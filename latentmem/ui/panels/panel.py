"""The flow that panels with long work share: press, wait in the queue, follow, stop, reload.

`press` records at once, outside gradio's queue, what is asked, as a `Run` of the visitor; `begin`
then has its turn in the queue and works for whichever run waits. So a reload loses no press, and a
press that is stopped or refused leaves the page of the run before it. gradio's listeners are the
bound methods. What a panel sends is a record whose fields are named after its components.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gradio as gr
from markupsafe import Markup

from ...engine.run_state import Scene
from ...records import LatentmemError, Status
from .. import components
from ..components import MODEL, QUIET, WATCH, WORK
from ..runs import Run, follow, watch
from ..session import AppSession, Visit
from ..views.html import Fragment, count, fragments, notice, progress

SKIP: Any = gr.skip()
SHOWN, HIDDEN = gr.update(visible=True), gr.update(visible=False)


class Action:
    """A button whose work waits for its turn in gradio's queue. `name` is the key of its runs."""

    name = ""

    def __init__(self, session: AppSession) -> None:
        self.session = session

    def of(self, request: Any) -> tuple[AppSession, Visit]:
        """The session that a visitor works in, and what is remembered of them."""
        session = self.session.at(request)
        return session, session.visit(request)

    def begin(self, request: gr.Request) -> Iterator[Any]:
        """A press has its turn in the queue: the pictures of the run that waits, whichever press
        put it there. The page stays as it is if none waits, and once the button is pressed again.
        """
        session, visit = self.of(request)
        run = visit.runs.get(self.name)
        if run is None or not run.pressed:
            yield self.unchanged()
            return
        run.before = None  # from here on there is no way back
        with closing(self.work(session, visit, run)) as pictures:
            for picture in pictures:
                if visit.runs.get(self.name) is not run:
                    return
                yield picture
        if not run.begun:  # there was nothing to begin with, and the picture says so
            run.end()

    def refused(self, request: gr.Request) -> Any:
        """The event of a press failed: if gradio's queue is full, the press gets no turn, and the
        page says so. Otherwise an earlier press was stopped, which gradio calls a failure, too."""
        session, visit = self.of(request)
        run = visit.runs.get(self.name)
        if run is None or not run.pressed or not session.full(request):
            return self.unchanged()
        run.end()
        run.error = "The app is busy and its queue is full: press the button again in a minute."
        return self.turned_away(session, visit, run)

    def unchanged(self) -> Any:
        """What leaves the page as it is."""
        return SKIP

    def work(self, session: AppSession, visit: Visit, run: Run) -> Any:
        """A generator of the pictures of a run that has its turn."""
        raise NotImplementedError

    def turned_away(self, session: AppSession, visit: Visit, run: Run) -> Any:
        """The picture after the full queue refused a run; `run.error` says so."""
        raise NotImplementedError


class Comparison(Action):
    """Work beside the result of a panel, in one area of its page: ends when that result goes."""

    def __init__(self, panel: Panel) -> None:
        super().__init__(panel.session)
        self.panel = panel

    def wait(self, request: Any, asked: object) -> Any:
        """Records a press, before the queue; Stop can end it from now on."""
        _, visit = self.of(request)
        visit.start(self.name).asked = asked
        return gr.update(interactive=True)

    def turned_away(self, session: AppSession, visit: Visit, run: Run) -> list[Fragment]:
        return problem(run.error)

    def wire(self, button: gr.Button, press: Any, asked: Any, area: gr.HTML) -> Any:
        """Listens to its button. Afterwards, also when the full queue refused it, Stop is there as
        long as anything is left to stop."""
        stop = self.panel.stop_button
        pressed = button.click(press, asked, stop, **QUIET)
        work = pressed.then(self.begin, None, area, **WORK, **MODEL)
        for ended in (work, work.failure(self.refused, None, area, **QUIET)):
            ended.then(self.panel.still_going, None, stop, **QUIET)
        return work


class Panel(Action):
    """A panel whose work survives a reload of its page.

    A subclass has a component for each field of its `View`, and its controls by name in the order
    of what `press` is sent; `asked` makes a record of them. Its methods `draw`, `work` and
    `form` say what is shown.
    """

    View: Any  # a NamedTuple of updates, by default none
    Asked: Any  # a record of what a press asks
    Scene: Any = Scene  # what the records of its runs are folded into
    aside: tuple[str, ...] = ()  # comparisons that belong to its result
    cleared: Mapping[str, Any] = MappingProxyType({})  # what a press takes away beside the result
    controls: dict[str, gr.components.Component]
    press_button: gr.Button
    stop_button: gr.Button

    def buttons(self, press: str, press_id: str, stop_id: str, ready: bool = True) -> None:
        """Press and Stop, and beside them how long the work would take."""
        with gr.Row(elem_classes="tight"):
            self.press_button = gr.Button(
                press, variant="primary", elem_id=press_id, min_width=110, interactive=ready
            )
            self.stop_button = gr.Button(
                "Stop", variant="stop", elem_id=stop_id, min_width=110, interactive=False
            )
            self.time = components.live(f"lm-{self.name}-time")

    # ---------- what differs from panel to panel

    def asked(self, *given: Any) -> Any:
        """The values of the controls as a record."""
        return self.Asked(*given)

    def validate(self, session: AppSession, asked: Any) -> str:
        """Why this cannot be asked, in one sentence; "" if it can."""
        return ""

    def new_run(self, visit: Visit, asked: Any) -> Run:
        """A run that waits for its turn. Until it has it, the one before is kept: the page goes
        back to that if the press is stopped in the queue or the queue is full."""
        now = visit.runs.get(self.name)
        before = now if now is None or now.begun else now.before
        visit.end(*self.aside)
        for name in self.aside:  # nothing of theirs is shown any more
            visit.runs.pop(name, None)
        run = visit.start(self.name, self.Scene())
        run.before, run.asked = None if before is None or before.away else before, asked
        return run

    def draw(
        self, session: AppSession, visit: Visit, run: Run, running: bool, message: str = ""
    ) -> Any:
        """The page of a run as it stands, as a View."""
        raise NotImplementedError

    def form(self, asked: Any) -> dict[str, Any]:
        """Control -> its value, for a page that was reloaded."""
        return {}

    def beside(self, visit: Visit) -> dict[str, Any]:
        """Field of the View -> what a reload brings back beside the run itself."""
        return {}

    # ---------- what is the same in all

    def pictures(
        self,
        session: AppSession,
        visit: Visit,
        run: Run,
        records: Iterator[Any],
        finish: Callable[[], None] | None = None,
    ) -> Iterator[Any]:
        """A run from its first picture to its last; see `follow`."""
        yield self.draw(session, visit, run, True)
        for _ in follow(records, run, finish):
            yield self.draw(session, visit, run, True)
        yield self.draw(session, visit, run, False)

    def waiting(self, session: AppSession, visit: Visit, ahead: int = 0) -> Any:
        """The View of a run that waits: what belongs to the last run is gone."""
        shown = self.draw(session, visit, self.empty(), True)
        return shown._replace(status=queued(ahead), **self.cleared)

    def empty(self) -> Run:
        """In place of a run where there is none."""
        return Run(scene=self.Scene())

    # ---------- what gradio calls

    def press(self, request: gr.Request, *given: Any) -> Any:
        """Records a press, before the queue, or refuses it and leaves the last result."""
        session, visit = self.of(request)
        asked = self.asked(*given)
        reason = self.validate(session, asked)
        if not reason:
            self.new_run(visit, asked)
            return self.waiting(session, visit, session.ahead(request))
        run = self.standing(visit)
        if run is None or run.away:
            run = self.empty()
        run.refusal = reason
        shown = self.draw(session, visit, run, run.busy or run.pressed)
        return self.stays(shown)._replace(stop_button=self.still_going(request))

    def resume(self, request: gr.Request) -> Iterator[Any]:
        """After a reload: follows the run and shows its end, also if it ended while the page was
        loading. A run that has not begun leaves the page as it is."""
        session, visit = self.of(request)
        run = visit.runs.get(self.name)
        if run is None or not run.begun:
            yield self.unchanged()
            return
        for _ in watch(run):
            yield self.draw(session, visit, run, True)
        yield self.draw(session, visit, run, False)

    def stop(self, request: gr.Request) -> Any:
        """Ends the visitor's runs of this panel; what was seen so far stays. A run that only waited
        leaves the page of the one before it."""
        session, visit = self.of(request)
        visit.end(self.name, *self.aside)
        ended = visit.runs.get(self.name)
        run = self.standing(visit) or self.empty()
        run.refusal = ""
        with run.lock:
            run.scene.stopped |= not run.done
        begun = run is ended and run.begun
        shown = self.draw(session, visit, run, False, "" if begun else "Stopped before it began.")
        # The answer's page stood already: what the visitor chose on it stays chosen.
        return shown if begun and not set(self.aside) & set(visit.runs) else self.stays(shown)

    def still_going(self, request: gr.Request) -> Any:
        """Stop is there as long as anything is left to stop."""
        return gr.update(interactive=self.of(request)[1].busy(self.name, *self.aside))

    # ---------- the flow

    def unchanged(self) -> Any:
        return self.View()

    def turned_away(self, session: AppSession, visit: Visit, run: Run) -> Any:
        return self.stays(self.draw(session, visit, self.standing(visit) or run, False))

    def stays(self, shown: Any) -> Any:
        """A View that is drawn over the same result: what a visitor chose there stays chosen."""
        return shown

    def standing(self, visit: Visit) -> Run | None:
        """The run whose page is to be shown: one that never had its turn, and will not have it,
        makes way for the one before."""
        run = visit.runs.get(self.name)
        if run is None or run.before is None or run.begun or run.pressed:
            return run
        run.before.refusal = run.error
        visit.runs[self.name] = run.before
        return run.before

    def finished(self, visit: Visit) -> Run:
        """The run whose result the visitor has, also while a newer press waits for its turn."""
        run = self.standing(visit) or self.empty()
        return run.before or run

    def restored(self, session: AppSession, visit: Visit) -> dict[str, Any]:
        """What a loaded page shows of the last run, by names of controls and fields."""
        run = self.standing(visit)
        if run is None or run.away:
            return {}
        run.refusal = ""  # what was refused does not stand in the box any more
        if run.pressed:
            return self.form(run.asked) | self.waiting(session, visit)._asdict()
        shown = self.draw(session, visit, run, run.busy)._asdict() | self.beside(visit)
        return (self.form(run.asked) if run.asked is not None else {}) | shown

    # ---------- the components

    @property
    def outputs(self) -> list[gr.components.Component]:
        """The components of the View's fields."""
        return [getattr(self, name) for name in self.View._fields]

    def component(self, name: str) -> gr.components.Component:
        """The component of a control or of a field of the View."""
        return self.controls[name] if name in self.controls else getattr(self, name)

    def follow_press(self, pressed: Any) -> Any:
        """The work of a recorded press, and what a full queue says."""
        work = pressed.then(self.begin, None, self.outputs, **WORK, **MODEL)
        work.failure(self.refused, None, self.outputs, **QUIET)
        return work

    def wire_reload(self, guide: gr.HTML) -> None:
        """The guide tells a reloaded page to resume the run, or to begin it."""
        goes_on = getattr(guide, f"{self.name}_goes_on")(self.resume, None, self.outputs, **WATCH)
        begins = getattr(guide, f"{self.name}_begins")(
            self.begin, None, self.outputs, **WORK, **MODEL
        )
        self.stop_button.click(None, cancels=[goes_on, begins], **QUIET)


def problem(text: str) -> list[Fragment]:
    """A warning as the whole content of an area."""
    return fragments(("error", notice(text, "warn")))


def sent(file: Path, most_bytes: int) -> bytes:
    """What a visitor uploaded. Raises LatentmemError for too much, and for what is gone."""
    try:
        if file.stat().st_size > most_bytes:
            raise LatentmemError(
                f"{file.name} has more than {most_bytes // 1_000_000} MB: give a part of it."
            )
        return file.read_bytes()
    except OSError:
        raise LatentmemError(f"{file.name} cannot be read: upload it again.") from None


def told(run: Run, now: Markup | None, ended: Markup) -> list[Fragment]:
    """The status of a run: a refused press, then its error, what happens `now`, or its end."""
    refused = fragments(("refused", notice(run.refusal, "warn")))
    if run.error:
        return refused + problem(run.error)
    return refused + fragments(("said", ended) if now is None else ("status", now))


def queued(ahead: int = 0) -> list[Fragment]:
    """The status of a run that waits in the queue, `ahead` runs of others before it."""
    behind = f", {count(ahead, 'run')} ahead" if ahead else ""
    return fragments(("wait", progress(Status(f"Waiting for the model{behind}"))))


def after_stop(error: str) -> list[Fragment]:
    """How work ended without a result: with an error, or because it was stopped."""
    return fragments(("error", notice(error or "Stopped.", "warn" if error else "info")))
