"""The Memories panel: the map, the table, and the page of one memory. `map/actions.py` has what is
done with memories, `map/handlers.py` what the map asks for."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from ...records import LatentmemError, Problem
from .. import components
from ..components import QUIET
from ..map import actions, handlers
from ..map.messages import COLOUR_BY
from ..map.panel_state import Ask, Picture, message, opened, picture
from ..map.projection import methods
from ..runs import follow
from ..session import AppSession, QueryPoint, model_records, star_of
from ..views.html import Fragment, fragments, notice, progress
from ..views.memory import no_page
from .panel import queued

if TYPE_CHECKING:
    from ...engine import Engine

SPACES = [("Embedding", "input"), ("Activations", "kv"), ("Soft prompt", "prompt")]
CARRIED = ("points", "paint", "lit", "extras")  # the map's data, as text: quick through the page
# Gradio drops an event whose listener is still at work, unless it is told otherwise; the latter is
# for what only reads inputs.
EACH, LATEST = {"trigger_mode": "multiple"}, {"trigger_mode": "always_last"}
# maps that are computed at the same time
DRAWING = {"concurrency_id": "map", "concurrency_limit": 4, "queue": True}
MAP = "#lm-map .lm-figure"
FETCH = (
    "() => setTimeout(() => document.querySelector('#lm-download a, a#lm-download, "
    "#lm-download')?.click(), 400)"
)


@dataclass(frozen=True, eq=False)
class Memories:
    """The panel's components. `page` has those that a Picture fills, by the names of its parts;
    `asked` those that an Ask is made of."""

    session: AppSession
    page: dict[str, Any]
    asked: list[Any]
    buttons: dict[str, Any]

    def on(self, event: Any, handler: Callable[..., Any], *more: Any, **options: Any) -> Any:
        """`handler(Ask, *values of more)` listens to an event and fills the page."""
        to = options.pop("to", list(self.page.values()))
        given = [*self.asked, *more]
        return event(self.listener(handler), given, to, **{**QUIET, **options})

    def listener(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """A handler as a function that gradio can call, which names the arguments it injects."""

        def called(request: Any, event: Any, given: tuple[Any, ...]) -> Any:
            session, data = self.session.at(request), getattr(event, "_data", None)
            ask = Ask(session, session.visit(request), *given[:5])
            ask.data.update(data if isinstance(data, dict) else {})
            ask.address.update(request.query_params if request is not None else {})
            return handler(ask, *given[5:])

        if inspect.isgeneratorfunction(handler):

            def answer(request: gr.Request, event: gr.EventData, *given: Any) -> Any:
                yield from called(request, event, given)
        else:

            def answer(request: gr.Request, event: gr.EventData, *given: Any) -> Any:
                shown = called(request, event, given)
                return self.sent(shown) if isinstance(shown, Picture) else shown

        answer.__name__ = handler.__name__
        return answer

    def sent(self, shown: Picture) -> Any:
        """The parts of a picture by their components, for gradio."""
        parts = shown.parts() | {n: json.dumps(p) for n, p in shown.parts().items() if n in CARRIED}
        return {self.page[name]: part for name, part in parts.items()} or gr.skip()


def create_memories(session: AppSession) -> Memories:
    """The panel, inside the Blocks and the Tab of the caller."""
    page: dict[str, Any] = {name: gr.State("") for name in ("chosen", "picked", "slip", "seen")}
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=7, min_width=320, elem_classes="result"):
            asked, buttons = _look(session, page)
            page["warning"] = components.live("lm-misleads")
            page["map"] = components.map_area()
            page |= {name: components.carrier(name) for name in CARRIED}
            page["trust"] = components.live("lm-trust")
            page["selected"] = components.rows("lm-selected")
            buttons |= _bulk(page)
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel memory-page"):
            page["notice"] = components.live("lm-memory-notice")
            page["page"] = components.live("lm-memory", no_page())
            with gr.Row(visible=False, elem_classes="tight") as page["actions"]:
                buttons["try_it"] = _small("Try it on a problem", 130, variant="primary")
                buttons["close"] = _small("Close", 60, elem_id="lm-close")
            page["body"] = components.live("lm-memory-more")
            page["words"] = components.live("lm-words")
            buttons |= _tools(page)
    with gr.Column(elem_classes="result bank-list"):
        with gr.Row(elem_classes="tight end"):
            buttons["export"] = _small("Export all", 90, scale=1)
            buttons["upload"] = gr.UploadButton(
                "Import a zip", size="sm", file_types=[".zip"], min_width=100, scale=1
            )
            buttons["download"] = gr.DownloadButton(
                "Download", size="sm", visible=False, elem_id="lm-download", min_width=110, scale=1
            )
        page["table"] = components.rows("lm-table")
    return Memories(session, page, [*asked, page["chosen"]], buttons)


def _small(text: str, width: int, **more: Any) -> gr.Button:
    return gr.Button(text, size="sm", min_width=width, **more)


def _look(session: AppSession, page: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """(what an Ask is made of: search words, colour, distance, projection; the buttons above)"""
    with gr.Row(elem_classes="tight end where"):
        page["ask"] = gr.Textbox(
            label="Place a problem on the map",
            lines=1,
            max_lines=3,
            scale=5,
            elem_id="lm-ask",
            placeholder="Type a problem…",
            min_width=150,
        )
        locate_ = gr.Button("Place", variant="primary", scale=1, min_width=90, elem_id="lm-locate")
        clear = gr.Button("Clear", scale=1, min_width=70)
    with gr.Row(elem_classes="tight look"):
        space = gr.Dropdown(
            SPACES,
            value=session.engine.settings.key,
            label="Distance by",
            min_width=150,
            elem_id="lm-space",
        )
        method = gr.Dropdown(
            [(n, m) for m, n in methods().items()],
            value="pca",
            label="Projection",
            min_width=100,
            elem_id="lm-method",
        )
        colour = gr.Dropdown(
            list(COLOUR_BY.items()),
            value="source",
            label="Colour",
            min_width=120,
            elem_id="lm-colour",
        )
        query = gr.Textbox(
            label="Search",
            placeholder="words, tags, id…",
            max_lines=1,
            min_width=130,
            elem_id="lm-search",
        )
    page["method"] = method
    return [query, colour, space, method], {"locate": locate_, "clear": clear}


def _tools(page: dict[str, Any]) -> dict[str, Any]:
    """What can be done with the open memory."""
    made: dict[str, Any] = {}
    with gr.Group(visible=False, elem_classes="after") as page["tools"]:
        with gr.Row(elem_classes="tight tiled"):
            made["near_words"] = _small("Nearest words", 90, elem_id="lm-near-words")
            made["peft"] = _small("Export as PEFT", 90)
            page["quarantine"] = _small("Quarantine", 80, elem_id="lm-quarantine")
            page["release"] = _small("Release", 80, visible=False, elem_id="lm-release")
            page["delete"] = _small("Delete…", 70, variant="stop", elem_id="lm-delete")
        with gr.Group(visible=False) as page["sure"]:
            question = "Delete this memory and its history for good? Receipts of its answers stay."
            components.live("lm-sure", fragments(("q", notice(question, "warn"))))
            with gr.Row(elem_classes="tight"):
                made["really"] = gr.Button("Yes, delete it", variant="stop", elem_id="lm-really")
                made["spare"] = gr.Button("No, keep it", elem_id="lm-spare")
        with gr.Row(elem_classes="tight end annotate"):
            page["tag"] = gr.Textbox(
                label="Tag",
                placeholder="a word",
                max_lines=1,
                scale=3,
                min_width=90,
                elem_id="lm-tag",
            )
            made["add_tag"] = _small("Add tag", 70, scale=1, elem_id="lm-add-tag")
            page["note"] = gr.Textbox(
                label="Note",
                placeholder="what you noticed",
                lines=1,
                max_lines=4,
                scale=5,
                min_width=120,
                elem_id="lm-note",
            )
            made["add_note"] = _small("Add note", 70, scale=1, elem_id="lm-add-note")
    return made


def _bulk(page: dict[str, Any]) -> dict[str, Any]:
    """What can be done with the selected memories."""
    with (
        gr.Group(visible=False, elem_classes="after") as page["bulk"],
        gr.Row(elem_classes="tight end"),
    ):
        page["bulk_tag"] = gr.Textbox(
            label="Tag for the selected", max_lines=1, scale=3, min_width=140, elem_id="lm-bulk-tag"
        )
        return {
            "bulk_add": _small("Add tag", 70, scale=1, elem_id="lm-bulk-add"),
            "bulk_remove": _small("Remove tag", 90, scale=1),
            "bulk_export": _small("Export these", 90, scale=1, elem_id="lm-bulk-export"),
            "bulk_clear": _small("Clear selection", 100, scale=1, elem_id="lm-bulk-clear"),
        }


# ---------- A typed problem on the map, and the panel of a page that was just loaded.


def locate(ask: Ask, text: str) -> Iterator[list[Fragment]]:
    """Finds a typed problem's place on the map, with progress over the memory's page; `located`
    then shows it. Without a typed one it is that of the star, which the last answer may have
    set."""
    if not (text or "").strip() and ask.visit.star is not None:
        text = ask.visit.star.text
    run, found = ask.visit.start("locate"), list[QueryPoint]()
    yield message("")
    for _ in follow(_locating(ask, text, found), run):
        yield fragments(("status", progress(run.scene.status)))
    if found:
        ask.visit.star = found[0]


def located(ask: Ask) -> Picture:
    """The problem that `locate` placed, as a star with edges to its nearest memories."""
    run = ask.visit.runs.get("locate")
    error = run.error if run is not None else ""
    return opened(ask, error, good=not error)


def _locating(ask: Ask, text: str, found: list[QueryPoint]) -> Iterator[Any]:
    if ask.space == "prompt":
        raise LatentmemError(
            "A typed problem has no soft prompt, so it has no place on this map: choose another "
            "distance."
        )

    def work(engine: Engine, problem: Problem) -> Iterable[Any]:
        found.append(star_of(engine, problem))
        return ()

    yield from model_records(ask.session, text, {"key": ask.space}, work)


def show_map(ask: Ask) -> Picture:
    """The panel of a page that was just loaded; `?memory=ID` in its address opens a memory,
    `?receipt=ID` a receipt. The first map of a bank takes a moment, in which a visitor may have
    opened a memory: it stays."""
    memory, receipt = (str(ask.address.get(name, ""))[:80] for name in ("memory", "receipt"))
    fresh = Ask(ask.session, ask.visit, space=ask.session.engine.settings.key, chosen=memory)
    points = bool(memory or receipt) or ask.address.get("panel") == "memories"
    part = picture(fresh, receipt_id=receipt, points=points)
    if not ask.visit.looked:
        return part
    return Picture(**{name: part._asdict()[name] for name in LISTED})


# What of a whole panel is not about the open memory.
LISTED = ("table", "points", "paint", "lit", "seen", "solve_memory", "solve_other")


# ---------- Which handler listens to which event. What leads to other panels is wired in `app.py`.


def wire_arrival(m: Memories, app: gr.Blocks, token: gr.Textbox) -> None:
    """A page that was just loaded asks for the panel at once, beside all that it asks for."""
    show = m.listener(show_map)

    def arrived(request: gr.Request, event: gr.EventData, *given: Any) -> Any:
        m.session.visits.claim(getattr(request, "session_hash", None) or "", str(given[-1] or ""))
        return show(request, event, *given[:-1])

    tab = "(...given) => [...given.slice(0, -1), window.latentmem.tab()]"
    app.load(arrived, [*m.asked, token], list(m.page.values()), js=tab, **QUIET)


def wire_map(m: Memories) -> None:
    """The map, the search, the selection, and what changes nothing but this panel."""
    page, buttons = m.page, m.buttons
    query, colour, space, method, _ = m.asked
    presses = [buttons["locate"].click, page["ask"].submit]
    placing = gr.on(presses, queued, None, page["notice"], **QUIET).then(
        m.listener(locate),
        [*m.asked, page["ask"]],
        page["notice"],
        show_progress="hidden",
        api_visibility="private",
        **components.MODEL,
    )
    m.on(placing.then, located)
    m.on(buttons["clear"].click, handlers.clear, cancels=[placing])
    # One by one, because gr.on takes no custom events.
    areas = [page[name] for name in ("table", "selected", "page", "body")]
    for click in (page["map"].memory_click, *(area.open_memory for area in areas)):
        m.on(click, handlers.clicked, **EACH)
    m.on(page["body"].open_receipt, handlers.show_receipt, **EACH)
    m.on(buttons["close"].click, handlers.shut).then(**components.focus(MAP))
    for asked in (page["map"].want, space.input, method.input):
        drawing = m.on(asked, handlers.draw, to=page["warning"], **{**DRAWING, **LATEST})
        m.on(drawing.then, handlers.want, **LATEST)
    m.on(page["map"].explain, handlers.explain, **LATEST)
    m.on(colour.input, handlers.recolour, **LATEST)
    m.on(query.input, handlers.search, **LATEST)
    m.on(page["map"].picked, handlers.picked, **EACH)
    for area in (page["page"], page["body"]):
        m.on(area.act, actions.act).then(**components.focus("#lm-close", MAP))
    m.on(buttons["near_words"].click, actions.near_words)


def wire_actions(m: Memories) -> None:
    """Quarantine, tags, notes, downloads."""
    page, buttons = m.page, m.buttons
    for name, handler, then in (
        ("quarantine", actions.quarantine, "#lm-release"),
        ("release", actions.release, "#lm-quarantine"),
    ):
        m.on(page[name].click, handler).then(**components.focus(then))
    page["delete"].click(lambda: gr.update(visible=True), None, page["sure"], **QUIET)
    spare = buttons["spare"].click(lambda: gr.update(visible=False), None, page["sure"], **QUIET)
    spare.then(**components.focus("#lm-delete"))
    for press, typed, handler, more in (
        ("add_tag", "tag", actions.add_tag, ()),
        ("add_note", "note", actions.add_note, ()),
        ("bulk_add", "bulk_tag", actions.tag_picked, (page["picked"],)),
    ):
        for event in (buttons[press].click, page[typed].submit):
            m.on(event, handler, *more, page[typed])
    m.on(buttons["bulk_remove"].click, actions.untag_picked, page["picked"], page["bulk_tag"])
    buttons["bulk_clear"].click(None, js="() => { window.latentmem.mapView?.pick([]); }", **QUIET)
    files = [buttons["download"], page["notice"]]
    for press, handler, more in (
        ("export", actions.export_all, ()),
        ("bulk_export", actions.export_picked, (page["picked"],)),
        ("peft", actions.export_peft, ()),
    ):
        done = m.on(buttons[press].click, handler, *more, to=files)
        done.success(None, js=FETCH, **QUIET)
