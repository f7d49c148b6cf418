"""Which handler listens to which event of the Memories panel. What leads to other panels is wired in `layout.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import gradio as gr

from . import map_actions as actions
from . import map_handlers as handlers
from . import memories as panel
from . import parts
from .map_picture import SKIP, Picture
from .memories import Memories
from .session import Desk, bind

# A full queue of model work must not keep anybody from keeping, tagging or carrying away a memory, so nothing here waits in it.
QUIET = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
# Gradio drops an event whose listener is still at work, unless it is told otherwise.
EACH, LATEST = {"trigger_mode": "multiple"}, {"trigger_mode": "always_last"}  # the latter for what only reads inputs
DRAWING = {"concurrency_id": "map", "concurrency_limit": 4, "queue": True}  # pictures that are computed at the same time
MAP = "#lm-map .lm-figure"
FETCH = "() => setTimeout(() => document.querySelector('#lm-download a, a#lm-download, #lm-download')?.click(), 400)"


# What each handler may change: only these components are sent an answer.
OPENED = ("notice", "map", "trust", "warning", "page", "body", "words", "chosen", "actions", "quarantine", "release", "sure",
          "delete", "slip")
NAMED = (*OPENED, "choice")  # with the list of memories to open, which names the open one
DRAWN = ("notice", "map", "trust", "warning", "points", "paint", "lit", "method")
FOUND = ("notice", "table", "lit", "choice")
PICKED = ("notice", "selected", "bulk", "picked")
EXPLAINED = ("notice", "extras", "trust")
ANNOTATED = ("notice", "page", "body", "table", "paint", "slip")


def part(handler: Callable[..., Picture], names: tuple[str, ...]) -> Callable[..., Any]:
    """The handler with these members of its Picture as its answer; it may set no others."""
    @functools.wraps(handler)
    def some(*args: Any, **kwargs: Any) -> Any:
        shown = handler(*args, **kwargs)._asdict()
        assert all(v is SKIP for n, v in shown.items() if n not in names), "a handler sets what its listener does not send"
        values = [shown[n] for n in names]
        return values[0] if len(values) == 1 else values  # gradio takes the answer of one component as it is

    return some


def wire_map(desk: Desk, m: Memories, page: list[Any], model_work: dict[str, Any]) -> None:
    """The map, the search, the selection, and what changes nothing but this panel."""
    query, colour, space, method = m.look
    chosen = [*m.look, m.chosen]
    at = dict(zip(Picture._fields, page, strict=True))

    def listen(event: Callable[..., Any], handler: Callable[..., Any], given: list[Any], names: tuple[str, ...],
               **more: Any) -> Any:
        return event(bind(part(handler, names), desk), given, [at[n] for n in names], **QUIET, **more)

    placing = gr.on([m.locate.click, m.ask.submit], bind(panel.locate, desk), [m.ask, space], m.notice,
                    show_progress="minimal", show_progress_on=m.notice, api_visibility="private", **model_work)
    listen(placing.then, panel.located, chosen, NAMED)
    m.clear.click(bind(panel.clear, desk), chosen, [m.ask, *page], cancels=[placing], **QUIET)
    # One by one, because gr.on takes no custom events.
    for opened in (m.map.memory_click, m.table.open_memory, m.selected.open_memory, m.page.open_memory, m.body.open_memory):
        listen(opened, panel.clicked, m.look, NAMED, **EACH)
    listen(m.body.open_receipt, panel.show_receipt, chosen, NAMED, **EACH)
    listen(m.choice.input, panel.choose, [*m.look, m.choice], NAMED, **LATEST)
    listen(m.actions.close.click, panel.shut, chosen, NAMED).then(**parts.focus(MAP))
    for asked in (m.map.want, space.input, method.input):
        drawing = asked(bind(handlers.draw, desk), chosen, m.warning, **{**QUIET, **DRAWING}, **LATEST)
        listen(drawing.then, handlers.want, chosen, DRAWN, **LATEST)
    listen(m.map.explain, handlers.explain, chosen, EXPLAINED, **LATEST)
    listen(colour.input, handlers.recolour, m.look, ("notice", "paint"), **LATEST)
    listen(query.input, handlers.search, chosen, FOUND, **LATEST)
    listen(m.map.picked, handlers.picked, [m.chosen], PICKED, **EACH)
    for area in (m.page, m.body):
        listen(area.act, actions.act, chosen, ANNOTATED).then(**parts.focus("#lm-close", MAP))
    listen(m.actions.near_words.click, actions.near_words, [m.chosen], ("words",))


def wire_actions(desk: Desk, m: Memories, page: list[Any]) -> None:
    """Quarantine, tags, notes, downloads."""
    a, bulk, chosen = m.actions, m.bulk, [*m.look, m.chosen]
    a.quarantine.click(bind(actions.quarantine, desk), chosen, page, **QUIET).then(**parts.focus("#lm-release"))
    a.release.click(bind(actions.release, desk), chosen, page, **QUIET).then(**parts.focus("#lm-quarantine"))
    a.delete.click(lambda: gr.update(visible=True), None, a.sure, **QUIET)
    a.spare.click(lambda: gr.update(visible=False), None, a.sure, **QUIET).then(**parts.focus("#lm-delete"))
    for press, typed, handler in ((a.add_tag, a.tag, actions.add_tag), (a.add_note, a.note, actions.add_note)):
        gr.on([press.click, typed.submit], bind(handler, desk), [*chosen, typed], [typed, *page], **QUIET)
    gr.on([bulk.add.click, bulk.tag.submit], bind(actions.tag_picked, desk), [*chosen, m.picked, bulk.tag], [bulk.tag, *page],
          **QUIET)
    bulk.remove.click(bind(actions.untag_picked, desk), [*chosen, m.picked, bulk.tag], [bulk.tag, *page], **QUIET)
    bulk.clear.click(None, js="() => { window.latentmem.mapView?.pickNone(); }", **QUIET)
    files = [m.download, m.notice]
    m.export.click(bind(actions.export_all, desk), None, files, **QUIET).success(None, js=FETCH, **QUIET)
    bulk.export.click(bind(actions.export_picked, desk), m.picked, files, **QUIET).success(None, js=FETCH, **QUIET)
    a.peft.click(bind(actions.export_peft, desk), m.chosen, files, **QUIET).success(None, js=FETCH, **QUIET)
