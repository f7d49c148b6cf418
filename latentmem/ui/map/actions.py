"""What can be done with memories: quarantine, delete, tags and notes, files to download and to
import, nearest words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from ...bank import notes as bank_notes
from ...bank.peft import adapter_folder
from ...model.vocabulary import memory_words
from ...model.weights.catalog import hub_id
from ...records import LatentmemError
from ..session import AppSession, attempt
from ..views.html import Fragment, count, fragments, notice
from ..views.memory import found_table, words_table
from ..views.receipt import FORGET
from .handlers import recolour, show_selection, some_selected
from .panel_state import SKIP, Ask, Picture, message, opened, picture

if TYPE_CHECKING:
    from ...bank import MemoryBank


def quarantine(ask: Ask) -> Picture:
    """Keeps the open memory from being tried on problems."""
    return _changed(
        ask,
        lambda bank: bank.quarantine(ask.chosen, "put there in the app"),
        "In quarantine: it is not tried on problems until you release it.",
    )


def release(ask: Ask) -> Picture:
    """Lets the open memory be tried again."""
    return _changed(ask, lambda bank: bank.release(ask.chosen), "Released.")


def _changed(ask: Ask, action: Callable[[MemoryBank], Any], done: str) -> Picture:
    """The panel after an action; the quarantined have a colour of their own."""
    _, error = attempt(lambda: action(ask.bank))
    part = picture(ask, error or done, good=not error)
    return part if error else part._replace(paint=recolour(ask).paint)


def delete(ask: Ask) -> Picture:
    """Deletes the open memory, after the visitor has confirmed."""
    ask.visit.star = None  # its edges may end at the deleted one
    _, error = attempt(lambda: ask.bank.delete(ask.chosen))
    gone = picture(ask if error else replace(ask, chosen=""), error or "Deleted.", good=not error)
    return gone._replace(selected=[], bulk=gr.update(visible=False), picked="")


# ------------------------------------------------------------------ tags and notes
def add_tag(ask: Ask, tag: str) -> Picture:
    """Gives the open memory a tag; the box is emptied when that worked."""
    part, error = _annotated(ask, lambda bank: bank_notes.tag(bank, [ask.chosen], tag))
    return part._replace(tag=tag if error else "")


def add_note(ask: Ask, note: str) -> Picture:
    """Keeps a note on the open memory."""
    part, error = _annotated(ask, lambda bank: bank_notes.add_note(bank, ask.chosen, note))
    return part._replace(note=note if error else "")


def act(ask: Ask) -> Picture:
    """A button in the memory's page removes a tag or a note, or forgets a receipt."""
    do, value = ask.text("do"), ask.text("value")
    if do == FORGET:
        _, error = attempt(lambda: forget_receipt(ask.bank, value))
        part = opened(ask, error or "Forgotten.", not error)
        return Picture(notice=part.notice, page=part.page, body=part.body, slip=part.slip)
    if do == "untag":
        return _annotated(ask, lambda bank: bank_notes.tag(bank, [ask.chosen], value, on=False))[0]
    if do == "remove-note":
        return _annotated(ask, lambda bank: bank_notes.remove_note(bank, ask.chosen, value))[0]
    return Picture()


def forget_receipt(bank: MemoryBank, receipt_id: str) -> str:
    """Deletes a receipt for good; in a shared app, one of the visitor's own. Raises LatentmemError
    if it is not there."""
    if not receipt_id.strip():
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


def _annotated(ask: Ask, action: Callable[[MemoryBank], Any]) -> tuple[Picture, str]:
    """(what shows tags and notes, the error) after an action on the open memory."""
    error = "Open a memory first."
    if ask.chosen:
        _, error = attempt(lambda: action(ask.bank))
    part = opened(ask, error, good=not error)
    shown = Picture(notice=part.notice, page=part.page, body=part.body, slip=part.slip)
    return shown._replace(**_tagged(ask)), error


def _tagged(ask: Ask) -> dict[str, Any]:
    """The table, and the colours if they show tags."""
    rows = ask.atlas.rows()
    table = found_table(rows.infos, rows.found(ask.words or ""), ask.chosen, rows.tags)
    return {"table": table, "paint": recolour(ask).paint if ask.colour == "tags" else SKIP}


# ------------------------------------------------------------------ the selected
def untag_picked(ask: Ask, picked: str, tag: str) -> Picture:
    """Takes a tag from every selected memory."""
    return tag_picked(ask, picked, tag, on=False)


def tag_picked(ask: Ask, picked: str, tag: str, on: bool = True) -> Picture:
    """Gives every selected memory a tag, or takes it away."""
    changed, error = attempt(lambda: bank_notes.tag(ask.bank, some_selected(ask, picked), tag, on))
    if error:
        return Picture(notice=message(error, False), bulk_tag=tag)
    words = f"{count(changed, 'memory', 'memories')} {'got' if on else 'lost'} the tag "
    part = show_selection(ask, picked)._replace(
        notice=message(f"{words}“{bank_notes.clean_tag(tag)}”."), bulk_tag="", **_tagged(ask)
    )
    if not ask.chosen:
        return part
    one = opened(ask)
    return part._replace(page=one.page, body=one.body, slip=one.slip)


# ------------------------------------------------------------------ files
Download = tuple[Any, list[Fragment]]


def export_all(ask: Ask) -> Download:
    """The whole bank as a zip to download."""
    return _download(ask, "bank", lambda folder: _exported(ask, folder, None))


def export_picked(ask: Ask, picked: str) -> Download:
    """The selected memories as a zip to download."""
    ids, error = attempt(lambda: some_selected(ask, picked))
    if error:
        return gr.update(visible=False), message(error, False)
    return _download(ask, "selected", lambda folder: _exported(ask, folder, ids))


def _exported(ask: Ask, folder: Path, ids: list[str] | None) -> tuple[Path, str]:
    file = folder / ("latentmem-bank.zip" if ids is None else "latentmem-selected.zip")
    report = ask.bank.export_zip(file, ids)
    left = f" Left out: {' '.join(report.refused[:3])}" if report.refused else ""
    return file, f"Exported {count(report.memories, 'memory', 'memories')}.{left}"


def export_peft(ask: Ask) -> Download:
    """The open memory as a zipped PEFT adapter folder."""
    told = (
        "Exported: unzip it and load the folder with PeftModel.from_pretrained; generate with "
        "use_cache=False."
    )
    zipped = partial(adapter_zip, ask.session, ask.chosen)
    return _download(ask, "peft", lambda folder: (zipped(folder), told))


def adapter_zip(session: AppSession, memory_id: str, folder: Path) -> Path:
    """A memory as a zipped PEFT adapter folder, in that folder. Raises LatentmemError."""
    info = session.engine.bank.info(memory_id)
    adapter, base = folder / info.id, hub_id(info.model_name)
    session.engine.bank.export_peft(info.id, adapter, base_model=base)
    made = shutil.make_archive(f"{adapter}-peft", "zip", adapter)
    shutil.rmtree(adapter)
    return Path(made)


def _download(ask: Ask, kind: str, make: Callable[[Path], tuple[Path, str]]) -> Download:
    made, error = attempt(lambda: ask.session.export(kind, make))
    if made is None:
        return gr.update(visible=False), message(error, False)
    file, told = made
    ready = gr.update(value=str(file), label=f"Download {file.name}", visible=True)
    return ready, message(told)


def import_zip(ask: Ask, file: str | None) -> Picture:
    """Adds the memories of an uploaded export that the bank lacks, or one PEFT adapter."""
    if not file:
        return picture(ask, "Choose a zip first.", good=False)
    name, error = attempt(lambda: _adapter(ask, file))
    if name or error:
        told = error or f"Imported the adapter as memory {name}, without a vote."
        return picture(replace(ask, chosen=name or ask.chosen), told, good=not error)
    report, error = attempt(lambda: ask.bank.import_zip(file))
    if report is None:
        return picture(ask, error, good=False)
    told = (
        f"Added {count(report.added, 'memory', 'memories')}; "
        f"{count(report.skipped, 'was', 'were')} already there."
    )
    if report.author:
        told += f" Signed by {report.author}."
    told = f"{told} {report.standing}".strip()
    if report.refused:
        told += f" Refused {len(report.refused)}: {report.refused[0]}"
    return picture(ask, told, good=not report.refused)


def _adapter(ask: Ask, file: str) -> str | None:
    """The id of the memory that a zipped PEFT adapter becomes; None if the file is none."""
    with adapter_folder(file) as folder:
        if folder is None:
            return None
        if not ask.session.engine.ready:
            raise LatentmemError("The model is not loaded yet: import the adapter when it is.")
        return ask.session.engine.import_adapter(folder, ask.words)


# ------------------------------------------------------------------ words
def near_words(ask: Ask) -> Picture:
    """The words nearest to each virtual token of the open memory, if the model is loaded."""

    def found() -> Any:
        if not ask.chosen:
            raise LatentmemError("Open a memory first.")
        if not ask.session.engine.ready:
            raise LatentmemError(
                "The nearest words need the model, which is not loaded yet: wait for it, or solve "
                "a problem."
            )
        memory = ask.bank.get(ask.chosen)
        if memory.soft_prompt.ndim == 3:
            raise LatentmemError("Layer vectors are no virtual tokens, so no words are near them.")
        return memory_words(ask.session.engine.model, memory)

    rows, error = attempt(found)
    if rows is None:
        return Picture(words=fragments(("words", notice(error, "warn"))))
    return Picture(words=words_table(rows))
