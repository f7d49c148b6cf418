"""Composes the app: all panels in one Blocks, what a visitor finds when a page opens, and what
leads from one panel to another."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from . import api, components, hosting
from .api import ENDPOINTS, Endpoints
from .components import MODEL, QUIET, live
from .limits import Places
from .map import actions, handlers
from .map.panel_state import picture
from .panels import memories as memories_panel
from .panels.build import Build
from .panels.distil import Distil
from .panels.memories import create_memories
from .panels.solve import Solve
from .panels.stream import AT_FIRST, FIRST, Stream
from .server import Blocks
from .session import AppSession, attempt, family, opening
from .views.about import endpoints_table, header_facts, kept_where, method, model_facts
from .views.html import expected, fragments, notice

if TYPE_CHECKING:
    from ..engine import Engine

TOP = ("facts", "timer", "solve_time", "after_time", "distil_time", "stream_time")
QUEUE_LOOK = 10.0  # seconds between two looks at the queue of a shared app
HEADER = (
    '<header class="masthead"><h1><a class="brand" href="./"><svg viewBox="0 0 32 32" '
    'aria-hidden="true"><circle cx="8" cy="10" r="4.5"/><circle cx="24" cy="8" r="3.2"/><circle '
    'cx="20" cy="23" r="5.5"/><path d="M8 10 24 8 20 23Z"/></svg><span>latentmem</span></a></h1>'
    "<p>Watch a language model learn from its own thinking.</p></header>"
)


def build(engine: Engine) -> gr.Blocks:
    """The whole app over one engine."""
    session = AppSession(engine)
    with Blocks(
        session,
        title="latentmem",
        analytics_enabled=False,
        delete_cache=(3600, 24 * 3600),
        fill_width=True,
    ) as app:
        api.register(session)  # first, so that they have the plain names
        page = Page(session)
        page.create()
        page.wire(app)
    # In a shared app nobody may pass by the queue; elsewhere gradio decides.
    app.queue(default_concurrency_limit=8, api_open=False if session.hosted else None)
    most = session.engine.settings.hosted_queue if session.hosted else 32
    places = Places(app._queue, most, session.hosted, MODEL["concurrency_id"])

    def forget(page: str) -> None:
        app.state_holder.session_data.pop(page, None)
        places.forget(page)

    session.visits.forget, session.full, session.ahead = forget, places.full, places.ahead
    return app


class Page:
    """The panels of one app. The bound methods are gradio's listeners."""

    def __init__(self, session: AppSession) -> None:
        self.session = session
        self.solve, self.distil, self.stream = Solve(session), Distil(session), Stream(session)
        self.build = Build(session)
        self.panels = (self.solve, self.distil, self.build, self.stream)

    # ---------- the layout

    def create(self) -> None:
        """Everything that is seen, inside the Blocks of the caller."""
        session, settings = self.session, self.session.engine.settings
        topics = examples_by_topic(session)
        with gr.Row(elem_classes="top"):
            gr.HTML(html_template=HEADER, apply_default_css=False, js_on_load=None)
            self.facts = live("lm-facts")
            self.theme = gr.Button(
                "Light / dark", size="sm", elem_id="lm-theme", scale=0, min_width=110
            )
        with gr.Tabs(elem_id="lm-tabs") as self.tabs:
            with gr.Tab("Solve", id="solve"):
                self.solve.create(settings, topics, opening(session), session.examples.values())
            with gr.Tab("Distil", id="distil") as self.lessons:
                self.distil.create(settings, list(session.examples))
                self.build.create(settings)
            with gr.Tab("Memories", id="memories") as self.shelf:
                self.memories = create_memories(session)
            with gr.Tab("Stream", id="stream"):
                self.stream.create(settings, list(topics))
            with gr.Tab("About", id="about"):
                create_about(session.engine)
        self.token = gr.Textbox(visible=False)
        self.timer, self.guide = gr.Timer(1.0, active=False), components.guide()
        s, d = self.solve, self.distil
        self.top = [self.facts, self.timer, s.time, s.distil_time, d.time, self.stream.time]
        self.sized = [s.controls[name] for name in ("mode", "rollouts", "max_new_tokens")]
        self.sized += [d.controls["steps"], *(self.stream.controls[n] for n in ("systems", "size"))]
        lists = {"solve_memory": self.solve.controls["memory"], "solve_other": self.solve.other}
        self.memories.page.update(lists)

    # ---------- a page is opened, looked at while the models load, and closed

    def welcome(self, token: str, request: gr.Request) -> dict[gr.components.Component, Any]:
        """What a page shows that was just loaded: the line at the top, and what its tab showed
        before a reload. `token` is the browser tab's own."""
        shown = self.arrived(token, request)
        places = {
            "guide": self.guide,
            **dict(zip(TOP, self.top, strict=True)),
            **{
                f"{panel.name}.{name}": panel.component(name)
                for panel in self.panels
                for name in (*panel.controls, *panel.View._fields)
            },
        }
        return {places[name]: value for name, value in shown.items()}

    def arrived(self, token: str, request: Any) -> dict[str, Any]:
        """The same by name: "guide", those of TOP, and "PANEL.NAME" for a panel's controls and the
        fields of its View.

        `?problem=...` fills the box; `page.js` says which panel `?memory=ID`, `?receipt=ID` and
        `?panel=NAME` open.
        """
        session = self.session
        visit = session.visits.claim(getattr(request, "session_hash", None) or "", str(token or ""))
        visit.looked = False
        mine = session.at(request)
        asked = dict(request.query_params) if request is not None else {}
        problem = str(asked.get("problem", ""))[:20_000]
        session.warming.start(session.engine)
        self.solve.linked(visit, problem)
        runs = [(p.name, visit.runs[p.name]) for p in self.panels if p.name in visit.runs]
        again = [f"{name}_goes_on" for name, run in runs if run.busy]
        again += [f"{name}_begins" for name, run in runs if run.pressed]
        shown: dict[str, Any] = dict(zip(TOP, self.head(request), strict=True))
        if again:
            shown["guide"] = {"again": again}
        if problem:
            shown["solve.problem"] = shown["distil.problem"] = problem
        for panel in self.panels:
            restored = panel.restored(mine, visit)
            shown |= {f"{panel.name}.{name}": value for name, value in restored.items()}
        return shown

    def head(self, request: gr.Request, *sized: Any) -> tuple[Any, ...]:
        """What TOP names: the line at the top, when to look again (while the models load, and in a
        shared app, whose queue moves), and how long each press would take with these values."""
        session = self.session.at(request)
        engine, warming, bank = session.engine, session.warming, session.engine.bank
        counted, error = attempt(lambda: (len(bank), bank.private))
        if error:
            line = fragments(("error", notice(error, "warn")))
        else:
            status = warming.status if warming.busy else None
            facts = header_facts(
                engine.settings, engine.ready, *counted, status=status, error=warming.error
            )
            line = fragments(("facts", facts))
        ahead = session.ahead(request)
        timer = gr.update(
            value=1.0 if warming.busy else QUEUE_LOOK,
            active=warming.busy or session.hosted or ahead > 0,
        )
        times = self.times(session, *sized)
        return line, timer, *(expected(seconds, ahead) for seconds in times)

    def times(
        self,
        session: AppSession,
        mode: str = "auto",
        rollouts: Any = None,
        longest: Any = None,
        steps: Any = None,
        systems: Sequence[str] | None = None,
        size: float | None = None,
    ) -> list[float | None]:
        """Seconds of Solve, of Distil after it, of Distil alone and of the stream. None of what is
        not known, or cannot be asked."""
        given = {"rollouts": rollouts, "max_new_tokens": longest, "steps": steps}
        chosen = components.overrides(tuple(given), tuple(given.values()))
        engine, _ = attempt(lambda: session.tuned(chosen))
        if engine is None:
            return [None] * 4
        s, pace = engine.settings, session.pace
        names = AT_FIRST if systems is None else systems
        return [
            pace.vote(s, s.rollouts * (1 if mode == "off" else 2)),
            pace.distil(s, voted=True),
            pace.distil(s),
            pace.stream(s, names, int(size or FIRST)) if names else None,
        ]

    def leave(self, request: gr.Request) -> None:
        """The page is gone: what was kept is freed, later if its tab may come back."""
        self.session.leave(request)

    # ---------- the wiring

    def wire(self, app: gr.Blocks) -> None:
        """Who listens to what, beyond a single panel."""
        toggle = "() => { window.latentmem.toggleTheme(); }"
        self.theme.click(None, js=toggle, **QUIET)
        for solved in self.solve.wire():
            solved.then(self.head, self.sized, self.top, **QUIET)
        sizes = [control.change for control in self.sized]
        gr.on(sizes, self.head, self.sized, self.top, trigger_mode="always_last", **QUIET)
        sampling = [self.solve.controls[name] for name in components.SAMPLING]
        kept = self.distil.wire(
            sampling, self.solve.distil_button, self.solve.controls["problem"], self.tabs
        )
        boxes = [self.distil.controls["problem"], self.solve.controls["problem"]]
        fill = "(mine, theirs) => mine || theirs"  # nobody meets an empty box after an answer
        self.lessons.select(None, boxes, boxes[0], js=fill, **QUIET)
        built = self.build.wire([*sampling, *list(self.distil.controls.values())[1:]])
        self.stream.wire()
        self._wire_memories(kept, built)
        shown: list[Any] = []
        for panel in self.panels:
            shown += [*panel.controls.values(), *panel.outputs]
            panel.wire_reload(self.guide)
        app.load(
            self.welcome,
            self.token,
            [self.guide, *self.top, *shown],
            js="() => [window.latentmem.tab()]",
            **QUIET,
        )
        memories_panel.wire_arrival(self.memories, app, self.token)
        self.timer.tick(self.head, self.sized, self.top, **QUIET)
        app.unload(self.leave)

    def _wire_memories(self, *kept: Any) -> None:
        """The Memories panel, and the ways to it. `kept`: events of memories kept."""
        m, buttons, each = self.memories, self.memories.buttons, memories_panel.EACH
        memories_panel.wire_map(m)
        memories_panel.wire_actions(m)
        m.on(self.guide.open_memory, handlers.clicked, **each)
        m.on(self.guide.open_receipt, handlers.show_receipt, **each)
        deleted = m.on(buttons["really"].click, actions.delete)
        deleted = deleted.then(**components.focus(memories_panel.MAP))
        imported = m.on(buttons["upload"].upload, actions.import_zip, buttons["upload"])
        for counts in (deleted, imported, *(m.on(one.then, picture) for one in kept)):
            counts.then(self.head, self.sized, self.top, **QUIET)
        controls = self.solve.controls
        trying = [self.tabs, controls["mode"], controls["memory"]]
        tried = buttons["try_it"].click(try_on_problem, m.page["chosen"], trying, **QUIET)
        tried.then(**components.focus("#lm-solve"))
        m.on(self.shelf.select, handlers.looked_at, m.page["slip"], m.page["seen"])
        areas = (self.solve.status, self.solve.receipt, self.distil.outcome, self.build.table)
        for area in areas:
            opened = m.on(area.open_memory, handlers.clicked)
            shown = opened.then(lambda: gr.update(selected="memories"), None, self.tabs, **QUIET)
            shown.then(**components.focus("#lm-close"))


def examples_by_topic(session: AppSession) -> dict[str, list[str]]:
    """Topic -> the texts of its examples."""
    found: dict[str, list[str]] = {}
    for text, problem in session.examples.items():
        found.setdefault(family(problem), []).append(text)
    return dict(sorted(found.items()))


def try_on_problem(memory_id: str) -> tuple[Any, Any, Any]:
    """Back to Solve, with the open memory chosen."""
    return gr.update(selected="solve"), "chosen", gr.update(value=memory_id, visible=True)


# ---------- The About panel: text and SVG only.


def create_about(engine: Engine) -> None:
    """The panel, inside the Blocks and the Tab of the caller."""
    s = engine.settings
    components.live(
        "lm-about",
        fragments(
            ("method", method(s)),
            ("kept", kept_where(s.bank, s.hosted, s.hosted_memories, hosting.lasting(s.bank))),
            ("model", model_facts(s, hosting.limits(s))),
            (
                "api",
                endpoints_table(
                    [signature(getattr(Endpoints, name)) for name in ENDPOINTS], s.mcp, s.hosted
                ),
            ),
        ),
        classes="about",
    )


def signature(fn: Callable[..., object]) -> tuple[str, str, str]:
    """(name, parameters as a client gives them, what it does in a sentence) of an endpoint."""
    parameters = [
        p for p in inspect.signature(fn).parameters.values() if p.name not in ("self", "request")
    ]
    written = [
        f"{p.name}: {p.annotation}" + ("" if p.default is p.empty else f" = {p.default!r}")
        for p in parameters
    ]
    return (
        fn.__name__,
        ", ".join(written),
        " ".join((inspect.getdoc(fn) or "").partition("\n\n")[0].split()),
    )
