"""What can be done with memories: quarantine, delete, tags and notes, files to download and to
import, nearest words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from ...bank import notes as bank_notes
from ...bank.peft import adapter_folder
from ...model.vocabulary import memory_words
from ...model.weights.catalog import hub_id
from ...records import LatentmemError
from ..session import AppSession, attempt
from ..views.html import Fragment, count, fragments, notice
from ..views.memory import found_table, words_table
from ..views.receipt import ASK, SPARE, SURE, forget
from .handlers import recolour, selection, show_selection
from .panel_state import Picture, atlas_of, opened, picture, said

Look = tuple[str, str, str, str]  # search words, colour, space, projection


def _act(
    desk: AppSession,
    look: Look,
    chosen: str,
    request: Any,
    action: Callable[[Any], Any],
    done: str,
    close: bool = False,
) -> Picture:
    _, error = attempt(lambda: action(desk.engine.bank))
    words, colour, space, method = look
    part = picture(
        desk,
        desk.visit(request),
        words,
        colour,
        space,
        "" if close and not error else chosen,
        error or done,
        good=not error,
        method=method,
    )
    if (
        close or error
    ):  # without the deleted memory it is another map, whose points and colours the page asks for
        return part
    return part._replace(
        paint=recolour(desk, words, colour, space, method, request).paint
    )  # the quarantined have their own


def quarantine(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """Keeps the open memory from being tried on problems."""
    return _act(
        desk,
        (words, colour, space, method),
        chosen,
        request,
        lambda b: b.quarantine(chosen, "put there in the app"),
        "In quarantine: it is not tried on problems until you release it.",
    )


def release(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """Lets the open memory be tried again."""
    return _act(
        desk,
        (words, colour, space, method),
        chosen,
        request,
        lambda b: b.release(chosen),
        "Released.",
    )


def delete(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """Deletes the open memory, after the visitor has confirmed."""
    desk.visit(request).star = None  # its edges may end at the deleted one
    gone = _act(
        desk,
        (words, colour, space, method),
        chosen,
        request,
        lambda b: b.delete(chosen),
        "Deleted.",
        close=True,
    )
    return gone._replace(selected=[], bulk=gr.update(visible=False), picked="")


# ------------------------------------------------------------------ tags and notes
def add_tag(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    tag: str,
    request: gr.Request,
) -> tuple[Any, ...]:
    """Gives the open memory a tag; the box is emptied when that worked."""
    return _annotate(
        desk,
        (words, colour, space, method),
        chosen,
        request,
        tag,
        lambda b: bank_notes.tag(b, [chosen], tag),
    )


def add_note(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    note: str,
    request: gr.Request,
) -> tuple[Any, ...]:
    """Keeps a note on the open memory."""
    return _annotate(
        desk,
        (words, colour, space, method),
        chosen,
        request,
        note,
        lambda b: bank_notes.add_note(b, chosen, note),
    )


def act(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    event: gr.EventData,
    request: gr.Request,
) -> Picture:
    """A button in the memory's page: a tag or a note is taken away, or the open receipt is to be
    forgotten."""
    data = event._data if isinstance(event._data, dict) else {}
    value = str(data.get("value", ""))[:200]
    if data.get("do") in (ASK, SURE, SPARE):
        return _forgetting(
            desk, (words, colour, space, method), chosen, value, str(data["do"]), request
        )
    doing: dict[str, Callable[[Any], Any]] = {
        "untag": lambda b: bank_notes.tag(b, [chosen], value, on=False),
        "remove-note": lambda b: bank_notes.remove_note(b, chosen, value),
    }
    action = doing.get(str(data.get("do", "")))
    if action is None:
        return Picture()
    return _annotated(desk, (words, colour, space, method), chosen, request, action)[0]


def _forgetting(
    desk: AppSession, look: Look, chosen: str, receipt_id: str, do: str, request: Any
) -> Picture:
    """The two steps of forgetting the open receipt: the question below it, and then the memory's
    page in its place."""
    words, _, space, method = look
    error, done = "", do == SURE
    if done:
        _, error = attempt(lambda: forget_receipt(desk.engine.bank, receipt_id))
    part = opened(
        desk,
        desk.visit(request),
        space,
        method,
        chosen,
        error or ("Forgotten." if done else ""),
        not error,
        receipt_id="" if done else receipt_id,
        words=words,
    )
    if not done and part.slip:
        return Picture(body=[*part.body[:-1], *forget(receipt_id, do == ASK)])
    return Picture(notice=part.notice, page=part.page, body=part.body, slip=part.slip)


def forget_receipt(bank: Any, receipt_id: str) -> str:
    """Deletes a receipt for good; in a shared app, one of the visitor's own. Raises LatentmemError
    if it is not there."""
    if not isinstance(receipt_id, str) or not receipt_id.strip():
        raise LatentmemError(
            "The id of the receipt is empty: give that of a receipt that is kept here."
        )
    name = receipt_id.encode("ascii", "replace").decode()  # as every id is
    try:
        bank.forget([name])
    except LatentmemError:
        bank.receipt(name)  # says it without the command line's remedy, if that is it
        raise
    return name


def _annotate(
    desk: AppSession, look: Look, chosen: str, request: Any, text: str, action: Callable[[Any], Any]
) -> tuple[Any, ...]:
    part, error = _annotated(desk, look, chosen, request, action)
    return (text if error else ""), *part


def _annotated(
    desk: AppSession, look: Look, chosen: str, request: Any, action: Callable[[Any], Any]
) -> tuple[Picture, str]:
    """What shows tags and notes, after an action on them."""
    words, colour, space, method = look
    _, error = (
        attempt(lambda: action(desk.engine.bank)) if chosen else (None, "Open a memory first.")
    )
    part = opened(desk, desk.visit(request), space, method, chosen, error, good=not error)
    rows = atlas_of(desk).rows()
    table = found_table(rows.infos, rows.found(words or ""), chosen, rows.tags)
    painted = (
        recolour(desk, words, colour, space, method, request).paint
        if colour == "tags"
        else part.paint
    )
    return Picture(
        notice=part.notice,
        page=part.page,
        body=part.body,
        table=table,
        paint=painted,
        slip=part.slip,
    ), error


# ------------------------------------------------------------------ the selected
def tag_picked(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    picked: str,
    tag: str,
    request: gr.Request,
) -> tuple[Any, ...]:
    """Gives every selected memory a tag."""
    return _bulk(desk, (words, colour, space, method), chosen, picked, tag, request, True)


def untag_picked(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    picked: str,
    tag: str,
    request: gr.Request,
) -> tuple[Any, ...]:
    """Takes a tag from every selected memory."""
    return _bulk(desk, (words, colour, space, method), chosen, picked, tag, request, False)


def _bulk(
    desk: AppSession, look: Look, chosen: str, picked: str, tag: str, request: Any, on: bool
) -> tuple[Any, ...]:
    changed: list[int] = []

    def change(bank: Any) -> None:
        ids = [i.id for i in selection(desk, picked)]
        if not ids:
            raise LatentmemError(
                "Nothing is selected: draw a box or a lasso on the map, or tick rows of the table."
            )
        changed.append(bank_notes.tag(bank, ids, tag, on))

    part, error = (
        _annotated(desk, look, chosen, request, change)
        if chosen
        else _unopened(desk, look, request, change)
    )
    if error:
        return tag, *Picture(notice=said(error, False))
    words_ = (
        f"{count(changed[0], 'memory', 'memories')} {'got' if on else 'lost'} the tag "
        f"“{bank_notes.clean_tag(tag)}”."
    )
    area = show_selection(desk, picked, chosen)
    return "", *part._replace(
        notice=said(words_), selected=area.selected, bulk=area.bulk, picked=area.picked
    )


def _unopened(
    desk: AppSession, look: Look, request: Any, action: Callable[[Any], Any]
) -> tuple[Picture, str]:
    words, colour, space, method = look
    _, error = attempt(lambda: action(desk.engine.bank))
    rows = atlas_of(desk).rows()
    painted = (
        recolour(desk, words, colour, space, method, request).paint
        if colour == "tags"
        else Picture().paint
    )
    return Picture(
        table=found_table(rows.infos, rows.found(words or ""), "", rows.tags), paint=painted
    ), error


# ------------------------------------------------------------------ files
def export_all(desk: AppSession) -> tuple[Any, list[Fragment]]:
    """The whole bank as a zip to download."""
    return _download(desk, "bank", lambda folder: _exported(desk, folder, None))


def export_picked(desk: AppSession, picked: str) -> tuple[Any, list[Fragment]]:
    """The selected memories as a zip to download."""

    def make(folder: Path) -> tuple[Path, str]:
        ids = [i.id for i in selection(desk, picked)]
        if not ids:
            raise LatentmemError(
                "Nothing is selected: draw a box or a lasso on the map, or tick rows of the table."
            )
        return _exported(desk, folder, ids)

    return _download(desk, "selected", make)


def _exported(desk: AppSession, folder: Path, ids: list[str] | None) -> tuple[Path, str]:
    file = folder / ("latentmem-bank.zip" if ids is None else "latentmem-selected.zip")
    report = desk.engine.bank.export_zip(file, ids)
    left = f" Left out: {' '.join(report.refused[:3])}" if report.refused else ""
    return file, f"Exported {count(report.memories, 'memory', 'memories')}.{left}"


def export_peft(desk: AppSession, chosen: str) -> tuple[Any, list[Fragment]]:
    """The open memory as a zipped PEFT adapter folder."""
    return _download(
        desk,
        "peft",
        lambda folder: (
            adapter_zip(desk, chosen, folder),
            (
                "Exported: unzip it and load the folder with PeftModel.from_pretrained; generate "
                "with use_cache=False."
            ),
        ),
    )


def adapter_zip(desk: AppSession, memory_id: str, folder: Path) -> Path:
    """A memory as a zipped PEFT adapter folder, in that folder. Raises LatentmemError."""
    name = desk.engine.bank.info(memory_id).id
    base = hub_id(desk.engine.bank.info(name).model_name)
    desk.engine.bank.export_peft(name, folder / name, base_model=base)
    made = shutil.make_archive(str(folder / f"{name}-peft"), "zip", folder / name)
    shutil.rmtree(folder / name)
    return Path(made)


def _download(
    desk: AppSession, kind: str, make: Callable[[Path], tuple[Path, str]]
) -> tuple[Any, list[Fragment]]:
    made, error = attempt(lambda: desk.export(kind, make))
    if made is None:
        return gr.update(visible=False), fragments(("said", notice(error, "warn")))
    return gr.update(value=str(made[0]), label=f"Download {made[0].name}", visible=True), fragments(
        ("said", notice(made[1], "good"))
    )


def import_zip(
    desk: AppSession,
    file: str | None,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """Adds the memories of an uploaded export that the bank lacks."""
    visit = desk.visit(request)
    if file and (adapter := attempt(lambda: _adapter(desk, file, words))) != (None, ""):
        memory, error = adapter
        told = error or f"Imported the adapter as memory {memory}, without a vote."
        return picture(
            desk, visit, words, colour, space, memory or chosen, told, good=not error, method=method
        )
    report, error = (
        attempt(lambda: desk.engine.bank.import_zip(file))
        if file
        else (None, "Choose a zip first.")
    )
    if report is None:
        return picture(desk, visit, words, colour, space, chosen, error, good=False, method=method)
    told = (
        f"Added {count(report.added, 'memory', 'memories')}; "
        f"{count(report.skipped, 'was', 'were')} already there."
    )
    refused = f" Refused {len(report.refused)}: {report.refused[0]}" if report.refused else ""
    return picture(
        desk,
        visit,
        words,
        colour,
        space,
        chosen,
        told + refused,
        good=not report.refused,
        method=method,
    )


def _adapter(desk: AppSession, file: str, words: str) -> str | None:
    """The id of the memory that a zipped PEFT adapter becomes; None if the file is none."""
    with adapter_folder(file) as folder:
        if folder is None:
            return None
        if not desk.engine.ready:
            raise LatentmemError("The model is not loaded yet: import the adapter when it is.")
        return desk.engine.import_adapter(folder, words)


# ------------------------------------------------------------------ words
def near_words(desk: AppSession, chosen: str) -> Picture:
    """The words nearest to each virtual token of the open memory, if the model is loaded."""

    def found() -> Any:
        if not chosen:
            raise LatentmemError("Open a memory first.")
        if not desk.engine.ready:
            raise LatentmemError(
                "The nearest words need the model, which is not loaded yet: wait for it, or solve "
                "a problem."
            )
        return memory_words(desk.engine.model, desk.engine.bank.get(chosen))

    rows, error = attempt(found)
    if rows is None:
        return Picture(words=fragments(("words", notice(error, "warn"))))
    return Picture(words=words_table(rows))
