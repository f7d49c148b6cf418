"""The Memories panel: the map, the table, and the page of one memory with everything that can be done to it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ..records import LatentmemError
from ..settings import Settings
from . import parts
from .library import Shelf, shelf
from .session import Desk, Run, Star, Visit, attempt, follow, ready_engine, star_of
from .views import Fragment, count, fragments, notice, progress
from .views_map import COLOUR_BY, map_figure, map_words, trust
from .views_memory import choice_label, no_page, page, table

CHOICES = 500  # memories offered in the drop-down lists, the newest first


@dataclass(frozen=True)
class Memories:
    """The panel's components that other panels or the wiring need."""

    ask: gr.Textbox
    locate: gr.Button
    clear: gr.Button
    look: list[gr.components.Component]  # search words, colour by, key kind
    chosen: gr.State
    choice: gr.Dropdown
    map: gr.HTML
    table: gr.HTML
    page: gr.HTML
    outputs: list[gr.components.Component]
    quarantine: gr.Button
    release: gr.Button
    peft: gr.Button
    try_it: gr.Button
    delete: gr.Button
    sure: gr.Group
    really: gr.Button
    spare: gr.Button
    export: gr.Button
    download: gr.DownloadButton
    upload: gr.UploadButton
    notice: gr.HTML


class Picture(NamedTuple):
    """What a handler sends to the page; the order is that of `Memories.outputs` (and the lists of the Solve panel)."""

    notice: list[Fragment]
    table: list[Fragment]
    map: Any
    trust: list[Fragment]
    page: list[Fragment]
    chosen: str
    actions: Any
    quarantine: Any
    release: Any
    sure: Any
    choice: Any
    solve_memory: Any
    solve_other: Any


def create_memories(settings: Settings) -> Memories:
    """The panel, inside the Blocks and the Tab of the caller."""
    chosen = gr.State("")
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=7, min_width=320, elem_classes="result"):
            with gr.Row(elem_classes="tight end"):
                ask = gr.Textbox(label="Where would this problem lie?", lines=1, max_lines=3, scale=5, elem_id="lm-ask",
                                 placeholder="Type a problem to see its nearest memories…")
                locate = gr.Button("Place it", variant="primary", scale=1, min_width=90, elem_id="lm-locate")
                clear = gr.Button("Clear", scale=1, min_width=70)
            found = parts.live("lm-trust")
            picture_ = parts.figure("lm-map", "Map of the memories")
            with gr.Row(elem_classes="tight"):
                colour = gr.Dropdown(list(COLOUR_BY.items()), value="source", label="Colour by", min_width=130)
                kind = gr.Radio([("Sentence embedding", "input"), ("Model's activations", "kv")], value=settings.key,
                                label="Similar by", min_width=200)
            with gr.Row(elem_classes="tight"):
                words = gr.Textbox(label="Search", placeholder="Words in the problem, answer, source or id", min_width=160)
                choice = gr.Dropdown([], label="Open a memory", filterable=True, min_width=200, elem_id="lm-choice")
            listing = parts.live("lm-table")
            with gr.Row(elem_classes="tight"):
                export = gr.Button("Export all (zip)", min_width=120)
                upload = gr.UploadButton("Import a zip", file_types=[".zip"], min_width=120)
                download = gr.DownloadButton("Download", visible=False, elem_id="lm-download", min_width=120)
        with gr.Column(scale=5, min_width=320, elem_classes="lm-panel memory-page"):
            said = parts.live("lm-memory-notice")
            body = parts.live("lm-memory", no_page())
            with gr.Group(visible=False, elem_classes="after") as actions:
                with gr.Row(elem_classes="tight"):
                    try_it = gr.Button("Try it on a problem", variant="primary", min_width=140)
                    peft = gr.Button("Export as PEFT", min_width=120)
                with gr.Row(elem_classes="tight"):
                    quarantine = gr.Button("Quarantine", min_width=110)
                    release = gr.Button("Release", visible=False, min_width=110)
                    delete = gr.Button("Delete…", variant="stop", min_width=100, elem_id="lm-delete")
                with gr.Group(visible=False) as sure:
                    parts.live("lm-sure", fragments(("q", notice("Delete this memory and its history for good?", "warn"))))
                    with gr.Row(elem_classes="tight"):
                        really = gr.Button("Yes, delete it", variant="stop", elem_id="lm-really")
                        spare = gr.Button("No, keep it")
    return Memories(ask, locate, clear, [words, colour, kind], chosen, choice, picture_, listing, body,
                    [said, listing, picture_, found, body, chosen, actions, quarantine, release, sure, choice],
                    quarantine, release, peft, try_it, delete, sure, really, spare, export, download, upload, said)


def picture(desk: Desk, visit: Visit, words: str, colour: str, kind: str, chosen: str, message: str = "",
            good: bool = True) -> Picture:
    """The whole panel. What cannot be read is said in its place."""
    try:
        books = shelf(desk, kind)
    except LatentmemError as e:
        books, message, good = Shelf((), (), None), str(e), False
    star = visit.star if visit.star is not None and visit.star.kind == kind else None
    opened, error = attempt(lambda: _open(desk, chosen, kind)) if chosen else (None, "")
    body, info, near = opened if opened is not None else (no_page(closed=True), None, ())
    chosen = info.id if info is not None else ""
    hits = star.hits if star is not None else near
    point = books.plane.project(star.key) if star is not None and books.plane is not None and len(
        star.key) == len(books.plane.centre) else None
    figure = map_figure(books.mapped, books.plane, colour_by=colour, chosen=chosen, star=point,
                        star_text=star.text if star is not None else "", hits=hits)
    figure |= {"words": map_words(books.mapped, point is not None, hits), "zoom": True}
    choices = [(choice_label(i), i.id) for i in books.all[:CHOICES]]
    quarantined = info is not None and info.quarantined
    note = error or message
    return Picture(
        fragments(("said", notice(note, "good" if good and not error else "warn"))) if note else [],
        table(books.all, words or "", chosen), figure, fragments(("trust", trust(books.mapped, books.plane, point, hits))),
        body, chosen, gr.update(visible=bool(chosen)), gr.update(visible=not quarantined), gr.update(visible=quarantined),
        gr.update(visible=False), gr.update(choices=choices, value=chosen or None), gr.update(choices=choices),
        gr.update(choices=choices))


def _open(desk: Desk, memory_id: str, kind: str) -> tuple[list[Fragment], Any, tuple[Any, ...]]:
    bank = desk.engine.bank
    memory, info = bank.get(str(memory_id)), bank.info(str(memory_id))
    near = desk.engine.changed(key=kind).neighbours(memory.id, 5) if kind in memory.keys else ()
    return page(memory, info, bank.events(memory.id, limit=50), near), info, near


def refresh(desk: Desk, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> Picture:
    """The panel as the bank is now."""
    return picture(desk, desk.visit(request), words, colour, kind, chosen)


def clicked(desk: Desk, words: str, colour: str, kind: str, event: gr.EventData, request: gr.Request) -> Picture:
    """Opens the memory of a point or link that was clicked. The id comes from the browser, so it is checked."""
    given = event._data.get("id", "") if isinstance(event._data, dict) else ""
    return picture(desk, desk.visit(request), words, colour, kind, str(given)[:80])


def choose(desk: Desk, words: str, colour: str, kind: str, memory_id: str | None, request: gr.Request) -> Picture:
    """Opens the memory chosen from the list."""
    return picture(desk, desk.visit(request), words, colour, kind, memory_id or "")


def locate(desk: Desk, text: str, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> Iterator[Picture]:
    """Places a typed problem on the map with edges to its nearest memories."""
    visit = desk.visit(request)
    run = visit.start("locate")
    found: list[Star] = []
    for _ in follow(_locating(desk, text, kind, found), run):
        yield _waiting(run)
    if found:
        visit.star = found[0]
    yield picture(desk, visit, words, colour, kind, chosen, run.error, good=not run.error)


def _waiting(run: Run) -> Picture:
    skip = gr.skip()
    return Picture(fragments(("status", progress(run.scene.status))), *[skip] * (len(Picture._fields) - 1))


def _locating(desk: Desk, text: str, kind: str, found: list[Star]) -> Iterator[Any]:
    problem = desk.problem(text)
    engine = yield from ready_engine(desk, {"key": kind})
    found.append(star_of(engine, problem))


def clear(desk: Desk, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> tuple[Any, ...]:
    """Takes the star away and closes the memory."""
    visit = desk.visit(request)
    visit.star = None
    return "", *picture(desk, visit, words, colour, kind, "")


def _act(desk: Desk, look: tuple[str, str, str], chosen: str, request: Any, action: Callable[[Any], Any], done: str,
         close: bool = False) -> Picture:
    _, error = attempt(lambda: action(desk.engine.bank))
    return picture(desk, desk.visit(request), *look, "" if close and not error else chosen, error or done, good=not error)


def quarantine(desk: Desk, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> Picture:
    """Keeps the open memory from being tried on problems."""
    return _act(desk, (words, colour, kind), chosen, request, lambda b: b.quarantine(chosen, "put there in the app"),
                "In quarantine: it is not tried on problems until you release it.")


def release(desk: Desk, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> Picture:
    """Lets the open memory be tried again."""
    return _act(desk, (words, colour, kind), chosen, request, lambda b: b.release(chosen), "Released.")


def delete(desk: Desk, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> Picture:
    """Deletes the open memory, after the visitor has confirmed."""
    desk.visit(request).star = None  # its edges may end at the deleted one
    return _act(desk, (words, colour, kind), chosen, request, lambda b: b.delete(chosen), "Deleted.", close=True)


def export_all(desk: Desk) -> tuple[Any, list[Fragment]]:
    """The whole bank as a zip to download."""
    return _download(desk, lambda folder: _exported(desk, folder))


def _exported(desk: Desk, folder: Path) -> tuple[Path, str]:
    report = desk.engine.bank.export_zip(folder / "latentmem-bank.zip")
    left = f" Left out: {' '.join(report.refused[:3])}" if report.refused else ""
    return folder / "latentmem-bank.zip", f"Exported {count(report.memories, 'memory', 'memories')}.{left}"


def export_peft(desk: Desk, chosen: str) -> tuple[Any, list[Fragment]]:
    """The open memory as a zipped PEFT adapter folder."""
    return _download(desk, lambda folder: _adapter(desk, chosen, folder))


def _adapter(desk: Desk, chosen: str, folder: Path) -> tuple[Path, str]:
    name = desk.engine.bank.info(chosen).id
    desk.engine.bank.export_peft(name, folder / name)
    return Path(shutil.make_archive(str(folder / f"{name}-peft"), "zip", folder / name)), (
        "Exported: unzip it and load the folder with PeftModel.from_pretrained.")


def _download(desk: Desk, make: Callable[[Path], tuple[Path, str]]) -> tuple[Any, list[Fragment]]:
    made, error = attempt(lambda: make(Path(tempfile.mkdtemp(dir=desk.folder()))))
    if made is None:
        return gr.update(visible=False), fragments(("said", notice(error, "warn")))
    return gr.update(value=str(made[0]), label=f"Download {made[0].name}", visible=True), fragments(
        ("said", notice(made[1], "good")))


def import_zip(desk: Desk, file: str | None, words: str, colour: str, kind: str, chosen: str, request: gr.Request) -> Picture:
    """Adds the memories of an uploaded export that the bank lacks."""
    visit = desk.visit(request)
    report, error = attempt(lambda: desk.engine.bank.import_zip(file)) if file else (None, "Choose a zip first.")
    if report is None:
        return picture(desk, visit, words, colour, kind, chosen, error, good=False)
    said = f"Added {count(report.added, 'memory', 'memories')}; {report.skipped} were already there."
    refused = f" Refused {len(report.refused)}: {report.refused[0]}" if report.refused else ""
    return picture(desk, visit, words, colour, kind, chosen, said + refused, good=not report.refused)
