"""Composes the app: builds all panels in one Blocks, then wires them. Handlers live with their
panels."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import gradio as gr

from ..records import Problem
from . import api, components, hosting
from .api import endpoints
from .components import live
from .map import handlers
from .map.panel_state import SKIP
from .panels import distil as before_after
from .panels import distil as distil_panel
from .panels import memories as map_wiring
from .panels import memories as memories_panel
from .panels import solve as solve_panel
from .panels import solve as whatif
from .panels import stream as stream_panel
from .panels.distil import Distil, create_distil
from .panels.memories import OPENED, Memories, create_memories
from .panels.solve import Solve, create_solve
from .panels.stream import Stream, create_stream, wire_stream
from .server import launch_options, opens_map
from .session import LONG, AppSession, attempt, bind, family
from .views.about import endpoints_table, header_facts, kept_where, method, model_facts
from .views.html import Fragment, fragments, notice

if TYPE_CHECKING:
    from ..engine import Engine

# ---------- A visitor opens the page: what it shows first, what a reload brings back, and the line at the top.


def opening(desk: AppSession) -> Problem:
    """The problem in the box of a first visitor: one of a family that the bank has a memory of, if
    there is one."""
    rows, _ = attempt(lambda: desk.engine.bank.infos(limit=200))
    learnt = {i.problem.text.strip() for i in rows or []}
    families = {i.problem.source for i in rows or []}
    fresh = [p for t, p in desk.examples.items() if t not in learnt and p.source in families]
    return (fresh or list(desk.examples.values()))[0]


def families(desk: AppSession) -> dict[str, list[str]]:
    """Family -> the texts of its examples."""
    found: dict[str, list[str]] = {}
    for text, problem in desk.examples.items():
        found.setdefault(family(problem), []).append(text)
    return dict(sorted(found.items()))


def welcome(desk: AppSession, token: str, request: gr.Request) -> tuple[Any, ...]:
    """Runs that go on or have still to begin, line at the top, and what the tab showed before a
    reload.

    `token` is the browser tab's own.

    `?problem=...` fills the box; which panel `?memory=ID`, `?receipt=ID` and `?panel=NAME` open,
    `page.js` says.
    """
    visit = desk.visits.claim(getattr(request, "session_hash", None) or "", str(token or ""))
    visit.looked = False
    mine = desk.at(request)
    asked = dict(request.query_params) if request is not None else {}
    problem = str(asked.get("problem", ""))[:20_000]
    desk.warming.start(desk.engine)
    solve_panel.linked(visit, problem)
    runs = [(name, visit.runs[name]) for name in LONG if name in visit.runs]
    again = [f"{name}_goes_on" for name, run in runs if run.busy] + [
        f"{name}_begins" for name, run in runs if run.pressed
    ]
    return (
        {"again": again} if again else gr.skip(),
        *head(mine),
        *solve_panel.restored(mine, visit, problem),
        *distil_panel.restored(mine, visit),
        *stream_panel.restored(mine, visit),
    )


def show_map(desk: AppSession, have: str, request: gr.Request) -> tuple[Any, ...]:
    """The Memories panel of a page that was just loaded; `?memory=ID` opens a memory, `?receipt=ID`
    a receipt. `have`: the stamp of the points that the page got beforehand."""
    asked = dict(request.query_params) if request is not None else {}
    memory, receipt = (str(asked.get(name, ""))[:80] for name in ("memory", "receipt"))
    visit = desk.visit(request)
    part = memories_panel.picture(
        desk,
        visit,
        "",
        "source",
        desk.engine.settings.key,
        memory,
        have=str(have or "") if opens_map(asked) else None,
        receipt_id=receipt,
    )
    # The first picture of a bank takes a second, in which a visitor may have opened a memory: it
    # stays.
    if not visit.looked:
        return part
    listed = {k: v for k, v in part.choice.items() if k != "value"}
    return part._replace(choice=listed, **dict.fromkeys(OPENED, SKIP))


def head(desk: AppSession) -> tuple[list[Fragment], Any]:
    """The line at the top, and whether it has to be looked at again: while the models are loading."""
    engine, warming = desk.engine, desk.warming
    counted, error = attempt(lambda: (len(engine.bank), engine.bank.private))
    if error:
        line = fragments(("error", notice(error, "warn")))
    else:
        line = fragments(
            (
                "facts",
                header_facts(
                    engine.settings,
                    engine.ready,
                    *counted,
                    status=warming.status if warming.busy else None,
                    error=warming.error,
                ),
            )
        )
    return line, gr.update(active=warming.busy and not engine.ready)


def leave(desk: AppSession, request: gr.Request) -> None:
    """The visitor closed the page: what was kept for them is freed, after a while if the tab may
    come back."""
    desk.leave(request)


# ---------- The About panel: the method in one picture, the model, where memories are kept, the endpoints. Text and SVG only.


def create_about(engine: Engine) -> None:
    """The panel, inside the Blocks and the Tab of the caller."""
    s = engine.settings
    components.live(
        "lm-about",
        fragments(
            ("method", method(s)),
            ("kept", kept_where(s.bank, s.hosted, s.hosted_memories, hosting.lasting(s.bank))),
            ("model", model_facts(s, hosting.limits(s))),
            ("api", endpoints_table([signature(fn) for fn in api.ENDPOINTS], s.mcp, s.hosted)),
        ),
        classes="about",
    )


def signature(fn: Callable[..., object]) -> tuple[str, str, str]:
    """(name, parameters as a client gives them, the first sentence of what it does) of an endpoint."""
    parameters = [
        p for p in inspect.signature(fn).parameters.values() if p.name not in ("desk", "request")
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


__all__ = ["build", "launch_options"]
# One piece of model work at a time; the others wait in the queue and see their place in it.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
# What is quick does not wait in that queue: when it is full, a memory can still be kept, and a
# verdict given.
QUIET = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
WATCH = {**QUIET, "concurrency_limit": 32, "queue": True}  # pages that only look on
HEADER = (
    '<header class="masthead"><h1><a class="brand" href="./"><svg viewBox="0 0 32 32" '
    'aria-hidden="true"><circle cx="8" cy="10" r="4.5"/><circle cx="24" cy="8" r="3.2"/><circle '
    'cx="20" cy="23" r="5.5"/><path d="M8 10 24 8 20 23Z"/></svg><span>latentmem</span></a></h1>'
    "<p>Watch a language model learn from its own thinking, and see which memory "
    "answered.</p></header>"
)


def build(engine: Engine) -> gr.Blocks:
    """The whole app over one engine."""
    desk = AppSession(engine)
    settings, topics, first = desk.engine.settings, families(desk), opening(desk)
    with gr.Blocks(
        title="latentmem", analytics_enabled=False, delete_cache=(3600, 24 * 3600), fill_width=True
    ) as app:
        app.latentmem_desk = desk  # type: ignore[attr-defined]  # for what is not asked through gradio: early.py
        endpoints(desk, MODEL)  # first, so that they have the plain names
        with gr.Row(elem_classes="top"):
            gr.HTML(html_template=HEADER, apply_default_css=False, js_on_load=None)
            facts = live("lm-facts")
            theme = gr.Button("Light / dark", size="sm", elem_id="lm-theme", scale=0, min_width=110)
        with gr.Tabs(elem_id="lm-tabs") as tabs:
            with gr.Tab("Solve", id="solve"):
                solve = create_solve(settings, topics, first, desk.examples.values())
            with gr.Tab("Distil", id="distil"):
                distil = create_distil(settings, list(desk.examples))
            with gr.Tab("Memories", id="memories") as shelf:
                memories = create_memories(settings)
            with gr.Tab("Stream", id="stream"):
                stream = create_stream(settings, list(topics))
            with gr.Tab("About", id="about"):
                create_about(desk.engine)
        token, timer, guide = (
            gr.Textbox(visible=False),
            gr.Timer(1.0, active=False),
            components.guide(),
        )
        have = gr.Textbox(visible=False)
        page, top = [*memories.outputs, solve.memory, solve.other], [facts, timer]
        theme.click(None, js="() => { window.latentmem.toggleTheme(); }", **QUIET)
        wire_solve(desk, solve, memories, tabs, top, page)
        wire_distil(desk, solve, distil, memories, tabs, top, page)
        wire_memories(desk, solve, memories, tabs, top, page, guide)
        shelf.select(
            bind(handlers.looked_at, desk),
            [*memories.look, memories.chosen, memories.slip, memories.seen],
            page,
            **QUIET,
        )
        wire_stream(desk, stream, MODEL)
        wire_arrival(app, desk, solve, distil, stream, token, have, timer, guide, top, page)
    # In a shared app nobody may pass by the queue; elsewhere gradio decides.
    app.queue(
        max_size=settings.hosted_queue if desk.hosted else 32,
        default_concurrency_limit=8,
        api_open=False if desk.hosted else None,
    )
    desk.full = lambda: len(app._queue) >= (app._queue.max_size or inf)
    return app


def wire_arrival(
    app: gr.Blocks,
    desk: AppSession,
    solve: Solve,
    distil: Distil,
    stream: Stream,
    token: gr.Textbox,
    have: gr.Textbox,
    timer: gr.Timer,
    guide: gr.HTML,
    top: list[Any],
    page: list[Any],
) -> None:
    """A page is opened, looked at while the models load, and closed."""
    restored = [
        solve.problem,
        solve.mode,
        solve.memory,
        *solve.settings,
        *solve.outputs,
        solve.columns,
        distil.problem,
        *distil.settings,
        *distil.outputs,
        distil.columns,
        *stream.asked,
        *stream.outputs,
    ]
    opened = app.load(
        bind(welcome, desk, own=False),
        token,
        [guide, *top, *restored],
        js="async () => [await window.latentmem.tab()]",
        **QUIET,
    )
    opened.then(
        bind(show_map, desk), have, page, js="async () => [await window.latentmem.early()]", **QUIET
    )
    for name, panel, place in (
        ("solve", solve_panel, solve),
        ("distil", distil_panel, distil),
        ("stream", stream_panel, stream),
    ):
        goes_on = getattr(guide, f"{name}_goes_on")(
            bind(panel.resume, desk), None, place.outputs, **WATCH
        )
        begins = getattr(guide, f"{name}_begins")(
            bind(panel.begin, desk),
            None,
            place.outputs,
            show_progress_on=place.outputs[0],
            **components.WORK,
            **MODEL,
        )
        place.stop.click(None, cancels=[goes_on, begins], **QUIET)
    timer.tick(bind(head, desk), None, top, **QUIET)
    app.unload(bind(leave, desk, own=False))


def wire_solve(
    desk: AppSession,
    solve: Solve,
    memories: Memories,
    tabs: gr.Tabs,
    top: list[Any],
    page: list[Any],
) -> None:
    """Solve, stop, counterfactual, replay, feedback, and the way to Distil and to the map."""
    status = solve.outputs[0]
    asked = [solve.problem, solve.mode, solve.memory, *solve.settings]
    # Chained, not side by side: with two listeners of one click gradio shows the first one's values
    # again at the end.
    pressed = gr.on(
        [solve.press.click, solve.problem.submit],
        bind(solve_panel.press, desk),
        asked,
        [*solve.outputs, solve.columns, solve.said],
        js="(...asked) => { window.latentmem.asks(asked[0]); return asked; }",
        **QUIET,
    )
    pressed.then(None, status, js="(shown) => { window.latentmem.asked(shown); }", **QUIET)
    run = pressed.then(
        bind(solve_panel.begin, desk),
        None,
        solve.outputs,
        show_progress_on=status,
        **components.WORK,
        **MODEL,
    )
    run.then(bind(head, desk), None, top, **QUIET)
    run.failure(bind(solve_panel.refused, desk), None, solve.outputs, **QUIET)
    compare = solve.compare.click(
        bind(whatif.press_compare, desk), solve.other, solve.stop, **QUIET
    ).then(bind(whatif.compare, desk), None, solve.columns, **components.WORK, **MODEL)
    replay = solve.replay.click(bind(whatif.press_replay, desk), None, solve.stop, **QUIET).then(
        bind(whatif.replay, desk), None, solve.said, **components.WORK, **MODEL
    )
    for one, refused, area in (
        (compare, whatif.compare_refused, solve.columns),
        (replay, whatif.replay_refused, solve.said),
    ):
        stays_stoppable(one, bind(refused, desk), area, bind(whatif.still_going, desk), solve.stop)
    solve.stop.click(
        bind(solve_panel.stop, desk), None, solve.outputs, cancels=[run, compare, replay], **QUIET
    )
    solve.right.click(bind(whatif.said_right, desk), None, solve.said, **QUIET)
    solve.wrong.click(bind(whatif.said_wrong, desk), None, solve.said, **QUIET)
    solve.mode.change(solve_panel.show_memory_choice, solve.mode, solve.memory, **QUIET)
    solve.families.input(
        bind(solve_panel.examples_of, desk), solve.families, [solve.example, solve.problem], **QUIET
    )
    status.take(
        bind(solve_panel.take, desk), None, [solve.families, solve.example, solve.problem], **QUIET
    )
    solve.example.input(solve_panel.fill, solve.example, solve.problem, **QUIET)
    # A problem that was typed is no example; said in the browser alone, since every letter is a
    # change.
    solve.problem.change(
        None,
        [solve.problem, solve.example],
        solve.example,
        js="(problem, example) => example === problem ? example : null",
        **QUIET,
    )
    for area in (solve.outputs[0], solve.outputs[2]):
        shows_memory(
            area.open_memory(bind(memories_panel.clicked, desk), memories.look, page, **QUIET), tabs
        )


def wire_distil(
    desk: AppSession,
    solve: Solve,
    distil: Distil,
    memories: Memories,
    tabs: gr.Tabs,
    top: list[Any],
    page: list[Any],
) -> None:
    """Distil, stop, keep or discard, before and after."""
    status = distil.outputs[0]
    asked = [distil.problem, *solve.settings, *distil.settings]
    work = {
        "fn": bind(distil_panel.begin, desk),
        "outputs": distil.outputs,
        "show_progress_on": status,
        **components.WORK,
        **MODEL,
    }
    run = distil.press.click(
        bind(distil_panel.press, desk), asked, [*distil.outputs, distil.columns], **QUIET
    ).then(**work)
    moved = solve.distil.click(
        bind(distil_panel.take_over, desk),
        [solve.problem, *asked[1:]],
        [tabs, distil.problem, *distil.outputs, distil.columns],
        **QUIET,
    )
    moved.then(**components.focus("#lm-distil-stop", "#lm-distil"))
    chained = moved.then(**work)
    for one in (run, chained):
        one.failure(bind(distil_panel.refused, desk), None, distil.outputs, **QUIET)
    again = distil.again.click(
        bind(before_after.press_compare, desk), distil.on, distil.stop, **QUIET
    ).then(bind(before_after.before_after, desk), None, distil.columns, **components.WORK, **MODEL)
    stays_stoppable(
        again,
        bind(before_after.compare_refused, desk),
        distil.columns,
        bind(before_after.still_going, desk),
        distil.stop,
    )
    distil.stop.click(
        bind(distil_panel.stop, desk), None, distil.outputs, cancels=[run, chained, again], **QUIET
    )
    distil.keep.click(bind(distil_panel.keep, desk), None, distil.outputs, **QUIET).then(
        **components.focus("#lm-outcome a", "#lm-distil")
    ).then(
        bind(memories_panel.refresh, desk), [*memories.look, memories.chosen], page, **QUIET
    ).then(bind(head, desk), None, top, **QUIET)
    distil.discard.click(bind(distil_panel.discard, desk), None, distil.outputs, **QUIET).then(
        **components.focus("#lm-distil")
    )
    shows_memory(
        distil.outputs[3].open_memory(
            bind(memories_panel.clicked, desk), memories.look, page, **QUIET
        ),
        tabs,
    )


def wire_memories(
    desk: AppSession,
    solve: Solve,
    m: Memories,
    tabs: gr.Tabs,
    top: list[Any],
    page: list[Any],
    guide: gr.HTML,
) -> None:
    """The map, the table, and what can be done with one memory."""
    map_wiring.wire_map(desk, m, page, MODEL)
    map_wiring.wire_actions(desk, m, page)
    guide.open_memory(bind(memories_panel.clicked, desk), m.look, page, **QUIET, **map_wiring.EACH)
    guide.open_receipt(
        bind(memories_panel.show_receipt, desk),
        [*m.look, m.chosen],
        page,
        **QUIET,
        **map_wiring.EACH,
    )
    chosen, counted = [*m.look, m.chosen], bind(head, desk)
    m.actions.really.click(bind(memories_panel.delete, desk), chosen, page, **QUIET).then(
        **components.focus(map_wiring.MAP)
    ).then(counted, None, top, **QUIET)
    m.upload.upload(bind(memories_panel.import_zip, desk), [m.upload, *chosen], page, **QUIET).then(
        counted, None, top, **QUIET
    )
    m.actions.try_it.click(
        try_on_problem, m.chosen, [tabs, solve.mode, solve.memory], **QUIET
    ).then(**components.focus("#lm-solve"))


def stays_stoppable(
    work: Any, refused: Any, area: gr.HTML, still_going: Any, stop: gr.Button
) -> None:
    """After a comparison, also one that the full queue refused, Stop is there as long as anything
    is left to stop."""
    for ended in (work, work.failure(refused, None, area, **QUIET)):
        ended.then(still_going, None, stop, **QUIET)


def shows_memory(opened: Any, tabs: gr.Tabs) -> None:
    """After a memory was opened from another panel: shows it, and the keyboard is there, too."""
    opened.then(lambda: gr.update(selected="memories"), None, tabs, **QUIET).then(
        **components.focus("#lm-close")
    )


def try_on_problem(memory_id: str) -> tuple[Any, Any, Any]:
    """Back to Solve, with the open memory chosen."""
    return gr.update(selected="solve"), "chosen", gr.update(value=memory_id, visible=True)
