"""The Memories panel: the map, the table, and the page of one memory. What is done with memories is
in `map_actions.py`, what the map asks for in `map_handlers.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gradio as gr

from ...records import LatentmemError
from ...settings import Settings
from .. import components
from ..map import actions, handlers
from ..map.actions import delete, export_all, export_peft, import_zip, quarantine, release
from ..map.messages import COLOUR_BY
from ..map.panel_state import SKIP, Picture, clicked, opened, picture, refresh, said, show_receipt
from ..map.projection import methods
from ..runs import follow
from ..session import AppSession, QueryPoint, bind, exclusively, ready_engine, star_of
from ..views.html import Fragment, fragments, notice, progress
from ..views.memory import no_page

__all__ = [
    "Memories",
    "Picture",
    "choose",
    "clear",
    "clicked",
    "create_memories",
    "delete",
    "export_all",
    "export_peft",
    "import_zip",
    "locate",
    "located",
    "picture",
    "quarantine",
    "refresh",
    "release",
    "show_receipt",
    "shut",
]
SPACES = [("Embedding", "input"), ("Activations", "kv"), ("Soft prompt", "prompt")]


class Actions(NamedTuple):
    """What can be done with the open memory."""

    group: gr.Group
    try_it: gr.Button
    peft: gr.Button
    quarantine: gr.Button
    release: gr.Button
    delete: gr.Button
    sure: gr.Group
    really: gr.Button
    spare: gr.Button
    close: gr.Button
    tag: gr.Textbox
    add_tag: gr.Button
    note: gr.Textbox
    add_note: gr.Button
    near_words: gr.Button


class Bulk(NamedTuple):
    """What can be done with the selected memories."""

    group: gr.Group
    tag: gr.Textbox
    add: gr.Button
    remove: gr.Button
    export: gr.Button
    clear: gr.Button


@dataclass(frozen=True)
class Memories:
    """The panel's components that other panels or the wiring need."""

    ask: gr.Textbox
    locate: gr.Button
    clear: gr.Button
    look: list[gr.components.Component]  # search words, colour by, space, projection
    chosen: gr.State
    picked: gr.State
    slip: gr.State  # the open receipt
    seen: gr.State  # the state of the bank that the panel shows
    choice: gr.Dropdown
    map: gr.HTML
    table: gr.HTML
    selected: gr.HTML
    page: gr.HTML
    body: gr.HTML
    words: gr.HTML
    outputs: list[gr.components.Component]
    actions: Actions
    bulk: Bulk
    export: gr.Button
    download: gr.DownloadButton
    upload: gr.UploadButton
    notice: gr.HTML
    warning: gr.HTML


def create_memories(settings: Settings) -> Memories:
    """The panel, inside the Blocks and the Tab of the caller."""
    chosen, picked, slip, seen = (gr.State("") for _ in range(4))
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=7, min_width=320, elem_classes="result"):
            with gr.Row(elem_classes="tight end where"):
                ask = gr.Textbox(
                    label="Where would this problem lie?",
                    lines=1,
                    max_lines=3,
                    scale=5,
                    elem_id="lm-ask",
                    placeholder="Type a problem…",
                    min_width=150,
                )
                locate = gr.Button(
                    "Place it", variant="primary", scale=1, min_width=90, elem_id="lm-locate"
                )
                clear = gr.Button("Clear", scale=1, min_width=70)
            with gr.Row(elem_classes="tight look"):
                space = gr.Dropdown(
                    SPACES,
                    value=settings.key,
                    label="Near means similar",
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
            warning = components.live("lm-misleads")
            map_ = components.map_area()
            points, paint, lit, extras = (
                components.carrier(name) for name in ("points", "paint", "lit", "extras")
            )
            found = components.live("lm-trust")
            selected = components.rows_area("lm-selected")
            bulk = _bulk()
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel memory-page"):
            told = components.live("lm-memory-notice")
            page = components.acting("lm-memory", no_page())
            actions = _actions()
            words = components.acting("lm-words")
            body = components.acting("lm-memory-more")
    with gr.Column(elem_classes="result bank-list"):
        with gr.Row(elem_classes="tight end"):
            choice = gr.Dropdown(
                [],
                label="Open a memory",
                filterable=True,
                scale=6,
                min_width=200,
                elem_id="lm-choice",
            )
            export = gr.Button("Export all", size="sm", min_width=90, scale=1)
            upload = gr.UploadButton(
                "Import a zip", size="sm", file_types=[".zip"], min_width=100, scale=1
            )
            download = gr.DownloadButton(
                "Download", size="sm", visible=False, elem_id="lm-download", min_width=110, scale=1
            )
        listing = components.rows_area("lm-table")
    a = actions
    outputs = [
        told,
        listing,
        map_,
        found,
        page,
        chosen,
        a.group,
        a.quarantine,
        a.release,
        a.sure,
        choice,
        points,
        paint,
        lit,
        extras,
        body,
        words,
        selected,
        bulk.group,
        picked,
        a.delete,
        method,
        warning,
        slip,
        seen,
    ]
    return Memories(
        ask,
        locate,
        clear,
        [query, colour, space, method],
        chosen,
        picked,
        slip,
        seen,
        choice,
        map_,
        listing,
        selected,
        page,
        body,
        words,
        outputs,
        actions,
        bulk,
        export,
        download,
        upload,
        told,
        warning,
    )


def _actions() -> Actions:
    with gr.Group(visible=False, elem_classes="after") as group:
        with gr.Row(elem_classes="tight"):
            try_it = gr.Button("Try it on a problem", variant="primary", size="sm", min_width=130)
            close = gr.Button("Close", size="sm", min_width=60, elem_id="lm-close")
        with gr.Row(elem_classes="tight tiled"):
            near_words = gr.Button(
                "Nearest words", size="sm", min_width=90, elem_id="lm-near-words"
            )
            peft = gr.Button("Export as PEFT", size="sm", min_width=90)
            quarantine_ = gr.Button("Quarantine", size="sm", min_width=80, elem_id="lm-quarantine")
            release_ = gr.Button(
                "Release", visible=False, size="sm", min_width=80, elem_id="lm-release"
            )
            delete_ = gr.Button(
                "Delete…", variant="stop", size="sm", min_width=70, elem_id="lm-delete"
            )
        with gr.Group(visible=False) as sure:
            components.live(
                "lm-sure",
                fragments(
                    (
                        "q",
                        notice(
                            "Delete this memory and its history for good? Receipts of its "
                            "answers stay.",
                            "warn",
                        ),
                    )
                ),
            )
            with gr.Row(elem_classes="tight"):
                really = gr.Button("Yes, delete it", variant="stop", elem_id="lm-really")
                spare = gr.Button("No, keep it", elem_id="lm-spare")
        with gr.Row(elem_classes="tight end annotate"):
            tag = gr.Textbox(
                label="Tag",
                placeholder="a word",
                max_lines=1,
                scale=3,
                min_width=90,
                elem_id="lm-tag",
            )
            add_tag = gr.Button("Add tag", size="sm", scale=1, min_width=70, elem_id="lm-add-tag")
            note = gr.Textbox(
                label="Note",
                placeholder="what you noticed",
                lines=1,
                max_lines=4,
                scale=5,
                min_width=120,
                elem_id="lm-note",
            )
            add_note = gr.Button(
                "Add note", size="sm", scale=1, min_width=70, elem_id="lm-add-note"
            )
    return Actions(
        group,
        try_it,
        peft,
        quarantine_,
        release_,
        delete_,
        sure,
        really,
        spare,
        close,
        tag,
        add_tag,
        note,
        add_note,
        near_words,
    )


def _bulk() -> Bulk:
    with gr.Group(visible=False, elem_classes="after") as group, gr.Row(elem_classes="tight end"):
        tag = gr.Textbox(
            label="Tag for the selected", max_lines=1, scale=3, min_width=140, elem_id="lm-bulk-tag"
        )
        add = gr.Button("Add tag", size="sm", min_width=70, scale=1, elem_id="lm-bulk-add")
        remove = gr.Button("Remove tag", size="sm", min_width=90, scale=1)
        export = gr.Button(
            "Export these", size="sm", min_width=90, scale=1, elem_id="lm-bulk-export"
        )
        clear = gr.Button(
            "Clear selection", size="sm", min_width=100, scale=1, elem_id="lm-bulk-clear"
        )
    return Bulk(group, tag, add, remove, export, clear)


def choose(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    memory_id: str | None,
    request: gr.Request,
) -> Picture:
    """Opens the memory chosen from the list."""
    visit = desk.visit(request)
    visit.looked = True
    return opened(desk, visit, space, method, memory_id or "", words=words)


def locate(
    desk: AppSession, text: str, space: str, request: gr.Request
) -> Iterator[list[Fragment]]:
    """Finds a typed problem's place on the map, with progress over the memory's page; `located`
    then shows it. Without a typed one it is that of the star, which the last answer may have
    set."""
    visit = desk.visit(request)
    if not (text or "").strip() and visit.star is not None:
        text = visit.star.text
    run, found = visit.start("locate"), list[QueryPoint]()
    yield said("")
    for _ in follow(exclusively(desk, _locating(desk, text, space, found)), run):
        yield fragments(("status", progress(run.scene.status)))
    if found:
        visit.star = found[0]


def located(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """The problem that `locate` placed, as a star with edges to its nearest memories."""
    visit = desk.visit(request)
    run = visit.runs.get("locate")
    error = run.error if run is not None else ""
    return opened(desk, visit, space, method, chosen, error, good=not error, words=words)


def _locating(desk: AppSession, text: str, space: str, found: list[QueryPoint]) -> Iterator[Any]:
    problem = desk.problem(text)
    if space == "prompt":
        raise LatentmemError(
            "A typed problem has no soft prompt, so it has no place on this map: choose another "
            "meaning of near."
        )
    engine = yield from ready_engine(desk, {"key": space})
    found.append(star_of(engine, problem))


def clear(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> tuple[Any, ...]:
    """Takes the star away and closes the memory."""
    visit = desk.visit(request)
    visit.star = None
    return "", *opened(desk, visit, space, method, "", words=words)


def shut(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """Closes the open memory; the star stays."""
    return opened(desk, desk.visit(request), space, method, "", words=words)


# ---------- Which handler listens to which event of the Memories panel. What leads to other panels
# is wired in `layout.py`.

# A full queue of model work must not keep anybody from keeping, tagging or carrying away a memory,
# so nothing here waits in it.
QUIET = {"show_progress": "hidden", "api_visibility": "private", "queue": False}
# Gradio drops an event whose listener is still at work, unless it is told otherwise.
EACH, LATEST = (
    {"trigger_mode": "multiple"},
    {"trigger_mode": "always_last"},
)  # the latter for what only reads inputs
DRAWING = {
    "concurrency_id": "map",
    "concurrency_limit": 4,
    "queue": True,
}  # pictures that are computed at the same time
MAP = "#lm-map .lm-figure"
FETCH = (
    "() => setTimeout(() => document.querySelector('#lm-download a, a#lm-download, "
    "#lm-download')?.click(), 400)"
)


# What each handler may change: only these components are sent an answer.
OPENED = (
    "notice",
    "map",
    "trust",
    "warning",
    "page",
    "body",
    "words",
    "chosen",
    "actions",
    "quarantine",
    "release",
    "sure",
    "delete",
    "slip",
)
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
        assert all(v is SKIP for n, v in shown.items() if n not in names), (
            "a handler sets what its listener does not send"
        )
        values = [shown[n] for n in names]
        return (
            values[0] if len(values) == 1 else values
        )  # gradio takes the answer of one component as it is

    return some


def wire_map(desk: AppSession, m: Memories, page: list[Any], model_work: dict[str, Any]) -> None:
    """The map, the search, the selection, and what changes nothing but this panel."""
    query, colour, space, method = m.look
    chosen = [*m.look, m.chosen]
    at = dict(zip(Picture._fields, page, strict=True))

    def listen(
        event: Callable[..., Any],
        handler: Callable[..., Any],
        given: list[Any],
        names: tuple[str, ...],
        **more: Any,
    ) -> Any:
        return event(
            bind(part(handler, names), desk), given, [at[n] for n in names], **QUIET, **more
        )

    placing = gr.on(
        [m.locate.click, m.ask.submit],
        bind(locate, desk),
        [m.ask, space],
        m.notice,
        show_progress="minimal",
        show_progress_on=m.notice,
        api_visibility="private",
        **model_work,
    )
    listen(placing.then, located, chosen, NAMED)
    m.clear.click(bind(clear, desk), chosen, [m.ask, *page], cancels=[placing], **QUIET)
    # One by one, because gr.on takes no custom events.
    for click in (
        m.map.memory_click,
        m.table.open_memory,
        m.selected.open_memory,
        m.page.open_memory,
        m.body.open_memory,
    ):
        listen(click, clicked, m.look, NAMED, **EACH)
    listen(m.body.open_receipt, show_receipt, chosen, NAMED, **EACH)
    listen(m.choice.input, choose, [*m.look, m.choice], NAMED, **LATEST)
    listen(m.actions.close.click, shut, chosen, NAMED).then(**components.focus(MAP))
    for asked in (m.map.want, space.input, method.input):
        drawing = asked(
            bind(handlers.draw, desk), chosen, m.warning, **{**QUIET, **DRAWING}, **LATEST
        )
        listen(drawing.then, handlers.want, chosen, DRAWN, **LATEST)
    listen(m.map.explain, handlers.explain, chosen, EXPLAINED, **LATEST)
    listen(colour.input, handlers.recolour, m.look, ("notice", "paint"), **LATEST)
    listen(query.input, handlers.search, chosen, FOUND, **LATEST)
    listen(m.map.picked, handlers.picked, [m.chosen], PICKED, **EACH)
    for area in (m.page, m.body):
        listen(area.act, actions.act, chosen, ANNOTATED).then(**components.focus("#lm-close", MAP))
    listen(m.actions.near_words.click, actions.near_words, [m.chosen], ("words",))


def wire_actions(desk: AppSession, m: Memories, page: list[Any]) -> None:
    """Quarantine, tags, notes, downloads."""
    a, bulk, chosen = m.actions, m.bulk, [*m.look, m.chosen]
    a.quarantine.click(bind(actions.quarantine, desk), chosen, page, **QUIET).then(
        **components.focus("#lm-release")
    )
    a.release.click(bind(actions.release, desk), chosen, page, **QUIET).then(
        **components.focus("#lm-quarantine")
    )
    a.delete.click(lambda: gr.update(visible=True), None, a.sure, **QUIET)
    a.spare.click(lambda: gr.update(visible=False), None, a.sure, **QUIET).then(
        **components.focus("#lm-delete")
    )
    for press, typed, handler in (
        (a.add_tag, a.tag, actions.add_tag),
        (a.add_note, a.note, actions.add_note),
    ):
        gr.on(
            [press.click, typed.submit],
            bind(handler, desk),
            [*chosen, typed],
            [typed, *page],
            **QUIET,
        )
    gr.on(
        [bulk.add.click, bulk.tag.submit],
        bind(actions.tag_picked, desk),
        [*chosen, m.picked, bulk.tag],
        [bulk.tag, *page],
        **QUIET,
    )
    bulk.remove.click(
        bind(actions.untag_picked, desk), [*chosen, m.picked, bulk.tag], [bulk.tag, *page], **QUIET
    )
    bulk.clear.click(None, js="() => { window.latentmem.mapView?.pickNone(); }", **QUIET)
    files = [m.download, m.notice]
    m.export.click(bind(actions.export_all, desk), None, files, **QUIET).success(
        None, js=FETCH, **QUIET
    )
    bulk.export.click(bind(actions.export_picked, desk), m.picked, files, **QUIET).success(
        None, js=FETCH, **QUIET
    )
    a.peft.click(bind(actions.export_peft, desk), m.chosen, files, **QUIET).success(
        None, js=FETCH, **QUIET
    )
