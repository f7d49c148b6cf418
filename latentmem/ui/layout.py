"""Composes the app: builds all panels in one Blocks, then wires them. Handlers live with their panels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gradio as gr

from . import distil as distil_panel
from . import memories as memories_panel
from . import solve as solve_panel
from .about import create_about
from .api import endpoints
from .distil import Distil, create_distil
from .memories import Memories, create_memories
from .parts import live
from .session import Desk, attempt, bind, family
from .solve import Solve, create_solve
from .theme import launch_options
from .views import Fragment, fragments, notice
from .views_about import header_facts

if TYPE_CHECKING:
    from ..engine import Engine

__all__ = ["build", "launch_options"]
# One piece of model work at a time; the others wait in the queue and see their place in it.
MODEL = {"concurrency_id": "model", "concurrency_limit": 1}
QUIET = {"show_progress": "hidden", "api_visibility": "private"}
HEADER = ('<header class="masthead"><h1><a class="brand" href="./"><svg viewBox="0 0 32 32" aria-hidden="true">'
          '<circle cx="8" cy="10" r="4.5"/><circle cx="24" cy="8" r="3.2"/><circle cx="20" cy="23" r="5.5"/>'
          '<path d="M8 10 24 8 20 23Z"/></svg><span>latentmem</span></a></h1>'
          "<p>Watch a language model learn from its own thinking, and see which memory answered.</p></header>")


def build(engine: Engine) -> gr.Blocks:
    """The whole app over one engine."""
    desk = Desk(engine)
    families: dict[str, list[str]] = {}
    for text, problem in desk.examples.items():
        families.setdefault(family(problem), []).append(text)
    names = sorted(families)
    with gr.Blocks(title="latentmem", analytics_enabled=False, delete_cache=(3600, 24 * 3600), fill_width=True) as app:
        endpoints(desk, MODEL)  # first, so that they have the plain names
        with gr.Row(elem_classes="top"):
            gr.HTML(html_template=HEADER, apply_default_css=False, js_on_load=None)
            facts = live("lm-facts")
            theme = gr.Button("Light / dark", size="sm", elem_id="lm-theme", scale=0, min_width=110)
        with gr.Tabs(elem_id="lm-tabs") as tabs:
            with gr.Tab("Solve", id="solve"):
                solve = create_solve(engine.settings, names, families[names[0]])
            with gr.Tab("Distil", id="distil"):
                distil = create_distil(engine.settings, list(desk.examples))
            with gr.Tab("Memories", id="memories"):
                memories = create_memories(engine.settings)
            with gr.Tab("About", id="about"):
                create_about(engine)
        page = [*memories.outputs, solve.memory, solve.other]
        theme.click(None, js="() => { window.latentmem.toggleTheme(); }", **QUIET)
        wire_solve(desk, solve, memories, tabs, facts, page)
        wire_distil(desk, solve, distil, memories, tabs, facts, page)
        wire_memories(desk, solve, memories, tabs, facts, page)
        app.load(bind(arrive, desk), None, [tabs, solve.problem, facts, *page], **QUIET)
        app.unload(bind(leave, desk))
    app.queue(max_size=32, default_concurrency_limit=8)
    return app


def wire_solve(desk: Desk, solve: Solve, memories: Memories, tabs: gr.Tabs, facts: gr.HTML, page: list[Any]) -> None:
    """Solve, stop, counterfactual, replay, feedback, and the way to Distil and to the map."""
    status = solve.outputs[0]
    asked = [solve.problem, solve.mode, solve.memory, *solve.settings]
    # Chained, not side by side: with two listeners of one click gradio shows the first one's values again at the end.
    pressed = gr.on([solve.press.click, solve.problem.submit], solve_panel.waiting, None,
                    [*solve.outputs, solve.columns, solve.said], queue=False, **QUIET)
    run = pressed.then(bind(solve_panel.solve, desk), asked, solve.outputs, show_progress="minimal", show_progress_on=status,
                       api_visibility="private", **MODEL)
    run.then(bind(head, desk), None, facts, **QUIET)
    compare = solve.compare.click(bind(solve_panel.compare, desk), solve.other, solve.columns, show_progress="minimal",
                                  api_visibility="private", **MODEL)
    replay = solve.replay.click(bind(solve_panel.replay, desk), None, solve.said, show_progress="minimal",
                                api_visibility="private", **MODEL)
    solve.stop.click(bind(solve_panel.stop, desk), None, solve.outputs, cancels=[run, compare, replay], queue=False, **QUIET)
    solve.right.click(bind(solve_panel.said_right, desk), None, solve.said, **QUIET)
    solve.wrong.click(bind(solve_panel.said_wrong, desk), None, solve.said, **QUIET)
    solve.mode.change(solve_panel.show_memory_choice, solve.mode, solve.memory, queue=False, **QUIET)
    solve.families.change(bind(solve_panel.examples_of, desk), solve.families, solve.example, queue=False, **QUIET)
    solve.example.input(solve_panel.fill, solve.example, solve.problem, queue=False, **QUIET)
    for area in (solve.outputs[0], solve.outputs[2]):
        area.open_memory(bind(memories_panel.clicked, desk), memories.look, page, **QUIET).then(
            open_memories, None, tabs, queue=False, **QUIET)


def wire_distil(desk: Desk, solve: Solve, distil: Distil, memories: Memories, tabs: gr.Tabs, facts: gr.HTML,
                page: list[Any]) -> None:
    """Distil, stop, keep or discard, before and after."""
    status = distil.outputs[0]
    asked = [distil.problem, *solve.settings, *distil.settings]
    handler = bind(distil_panel.distil, desk)
    options = {"show_progress": "minimal", "show_progress_on": status, "api_visibility": "private", **MODEL}
    run = distil.press.click(distil_panel.waiting, None, [*distil.outputs, distil.columns], queue=False, **QUIET).then(
        handler, asked, distil.outputs, **options)
    moved = solve.distil.click(distil_panel.take_over, solve.problem, [tabs, distil.problem, *distil.outputs, distil.columns],
                               queue=False, **QUIET)
    chained = moved.then(handler, asked, distil.outputs, **options)
    again = distil.again.click(bind(distil_panel.before_after, desk), distil.on, distil.columns, show_progress="minimal",
                               api_visibility="private", **MODEL)
    distil.stop.click(bind(distil_panel.stop, desk), None, distil.outputs, cancels=[run, chained, again], queue=False, **QUIET)
    distil.keep.click(bind(distil_panel.keep, desk), None, distil.outputs, **QUIET).then(
        bind(memories_panel.refresh, desk), [*memories.look, memories.chosen], page, **QUIET).then(
        bind(head, desk), None, facts, **QUIET)
    distil.discard.click(bind(distil_panel.discard, desk), None, distil.outputs, **QUIET)


def wire_memories(desk: Desk, solve: Solve, m: Memories, tabs: gr.Tabs, facts: gr.HTML, page: list[Any]) -> None:
    """The map, the table, and what can be done with one memory."""
    look, chosen = m.look, [*m.look, m.chosen]
    located = gr.on([m.locate.click, m.ask.submit], bind(memories_panel.locate, desk), [m.ask, *chosen], page,
                    show_progress="minimal", show_progress_on=m.notice, api_visibility="private", **MODEL)
    m.clear.click(bind(memories_panel.clear, desk), chosen, [m.ask, *page], cancels=[located], **QUIET)
    for opened in (m.map.memory_click, m.table.open_memory, m.page.open_memory):  # gr.on takes no custom events
        opened(bind(memories_panel.clicked, desk), look, page, **QUIET)
    m.choice.input(bind(memories_panel.choose, desk), [*look, m.choice], page, **QUIET)
    for control in look:
        (control.submit if isinstance(control, gr.Textbox) else control.change)(
            bind(memories_panel.refresh, desk), chosen, page, **QUIET)
    m.quarantine.click(bind(memories_panel.quarantine, desk), chosen, page, **QUIET)
    m.release.click(bind(memories_panel.release, desk), chosen, page, **QUIET)
    m.delete.click(lambda: gr.update(visible=True), None, m.sure, queue=False, **QUIET)
    m.spare.click(lambda: gr.update(visible=False), None, m.sure, queue=False, **QUIET)
    m.really.click(bind(memories_panel.delete, desk), chosen, page, **QUIET).then(bind(head, desk), None, facts, **QUIET)
    fetch = "() => setTimeout(() => document.querySelector('#lm-download a, a#lm-download, #lm-download')?.click(), 400)"
    m.export.click(bind(memories_panel.export_all, desk), None, [m.download, m.notice], **QUIET).success(None, js=fetch, **QUIET)
    m.peft.click(bind(memories_panel.export_peft, desk), m.chosen, [m.download, m.notice], **QUIET).success(
        None, js=fetch, **QUIET)
    m.upload.upload(bind(memories_panel.import_zip, desk), [m.upload, *chosen], page, **QUIET).then(
        bind(head, desk), None, facts, **QUIET)
    m.try_it.click(try_on_problem, m.chosen, [tabs, solve.mode, solve.memory], queue=False, **QUIET)


def open_memories() -> Any:
    """Shows the Memories panel."""
    return gr.update(selected="memories")


def try_on_problem(memory_id: str) -> tuple[Any, Any, Any]:
    """Back to Solve, with the open memory chosen."""
    return gr.update(selected="solve"), "chosen", gr.update(value=memory_id, visible=True)


def head(desk: Desk) -> list[Fragment]:
    """The facts at the top of the page."""
    counted, error = attempt(lambda: len(desk.engine.bank))
    if error:
        return fragments(("error", notice(error, "warn")))
    return fragments(("facts", header_facts(desk.engine.settings, desk.engine.ready, counted)))


def arrive(desk: Desk, request: gr.Request) -> tuple[Any, ...]:
    """A visitor opens the page: `?memory=ID` opens a memory, `?problem=...` fills the box."""
    asked = dict(request.query_params) if request is not None else {}
    memory, problem = str(asked.get("memory", ""))[:80], str(asked.get("problem", ""))
    page = memories_panel.picture(desk, desk.visit(request), "", "source", desk.engine.settings.key, memory)
    return (gr.update(selected="memories") if memory else gr.skip(), problem if problem else gr.skip(), head(desk), *page)


def leave(desk: Desk, request: gr.Request) -> None:
    """The visitor closed the page: their runs stop and what was kept for them is freed."""
    desk.leave(request)
