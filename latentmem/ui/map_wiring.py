"""Which handler listens to which event of the Memories panel. What leads to other panels is wired in `layout.py`."""

from __future__ import annotations

from typing import Any

import gradio as gr

from . import map_actions as actions
from . import map_handlers as handlers
from . import memories as panel
from .memories import Memories
from .session import Desk, bind

QUIET = {"show_progress": "hidden", "api_visibility": "private"}
DRAWING = {"concurrency_id": "map", "concurrency_limit": 4}  # pictures that are computed at the same time
FETCH = "() => setTimeout(() => document.querySelector('#lm-download a, a#lm-download, #lm-download')?.click(), 400)"


def wire_map(desk: Desk, m: Memories, page: list[Any], model_work: dict[str, Any]) -> None:
    """The map, the search, the selection, and what changes nothing but this panel."""
    query, colour, space, method = m.look
    chosen = [*m.look, m.chosen]
    placing = gr.on([m.locate.click, m.ask.submit], bind(panel.locate, desk), [m.ask, space], m.notice,
                    show_progress="minimal", show_progress_on=m.notice, api_visibility="private", **model_work)
    placing.then(bind(panel.located, desk), chosen, page, **QUIET)
    m.clear.click(bind(panel.clear, desk), chosen, [m.ask, *page], cancels=[placing], **QUIET)
    # One by one, because gr.on takes no custom events.
    for opened in (m.map.memory_click, m.table.open_memory, m.selected.open_memory, m.page.open_memory, m.body.open_memory):
        opened(bind(panel.clicked, desk), m.look, page, **QUIET)
    m.choice.input(bind(panel.choose, desk), [*m.look, m.choice], page, **QUIET)
    m.actions.close.click(bind(panel.shut, desk), chosen, page, **QUIET)
    for asked in (m.map.want, space.input, method.input):
        asked(bind(handlers.draw, desk), chosen, m.warning, **QUIET, **DRAWING).then(
            bind(handlers.want, desk), chosen, page, **QUIET).then(bind(handlers.explain, desk), chosen, page, **QUIET)
    colour.input(bind(handlers.recolour, desk), m.look, page, **QUIET)
    query.input(bind(handlers.search, desk), chosen, page, trigger_mode="always_last", **QUIET)
    m.map.picked(bind(handlers.picked, desk), m.chosen, page, **QUIET)


def wire_actions(desk: Desk, m: Memories, page: list[Any]) -> None:
    """Quarantine, tags, notes, nearest words, downloads."""
    a, bulk, chosen = m.actions, m.bulk, [*m.look, m.chosen]
    a.quarantine.click(bind(actions.quarantine, desk), chosen, page, **QUIET)
    a.release.click(bind(actions.release, desk), chosen, page, **QUIET)
    a.delete.click(lambda: gr.update(visible=True), None, a.sure, queue=False, **QUIET)
    a.spare.click(lambda: gr.update(visible=False), None, a.sure, queue=False, **QUIET)
    for press, typed, handler in ((a.add_tag, a.tag, actions.add_tag), (a.add_note, a.note, actions.add_note)):
        gr.on([press.click, typed.submit], bind(handler, desk), [*chosen, typed], [typed, *page], **QUIET)
    for area in (m.page, m.body):
        area.act(bind(actions.act, desk), chosen, page, **QUIET)
    a.near_words.click(bind(actions.near_words, desk), m.chosen, page, **QUIET)
    gr.on([bulk.add.click, bulk.tag.submit], bind(actions.tag_picked, desk), [*chosen, m.picked, bulk.tag], [bulk.tag, *page],
          **QUIET)
    bulk.remove.click(bind(actions.untag_picked, desk), [*chosen, m.picked, bulk.tag], [bulk.tag, *page], **QUIET)
    bulk.clear.click(None, js="() => { window.latentmem.mapView?.pickNone(); }", **QUIET)
    files = [m.download, m.notice]
    m.export.click(bind(actions.export_all, desk), None, files, **QUIET).success(None, js=FETCH, **QUIET)
    bulk.export.click(bind(actions.export_picked, desk), m.picked, files, **QUIET).success(None, js=FETCH, **QUIET)
    a.peft.click(bind(actions.export_peft, desk), m.chosen, files, **QUIET).success(None, js=FETCH, **QUIET)
