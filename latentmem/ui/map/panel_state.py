"""What the Memories panel shows: the whole of it, or the part that a click changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, NamedTuple

import gradio as gr
import numpy as np
from markupsafe import Markup

from ...bank.notes import notes, tags
from ...model.vocabulary import parameters
from ...model.weights.catalog import MODELS
from ...records import Counters, Hit, LatentmemError, Memory, MemoryInfo, Receipt
from ..components import other_memories
from ..session import AppSession, Visit, attempt, last_receipt, tried
from ..views.html import Fragment, fragments, notice
from ..views.memory import WORDS, History, body, choice_label, found_table, head, no_page
from ..views.receipt import forget, no_memory, stored_receipt
from .atlas import Atlas, Rows, Sheet
from .messages import lit, mark, misleads, paint, trust
from .messages import points as points_of
from .projection import between, run

# ---------- The page of one memory, or of a receipt in its place: what is read for it, and how it
# is put together.

# of the open memory that its page is drawn from, the newest; its verdicts are read beside them
EVENTS = 4000
NEAR = 5
VERDICTS = ("helped", "hurt", "feedback")
COUNTED = tuple(f.name for f in fields(Counters))


class Opened(NamedTuple):
    """The open memory, with those nearest to it in the space of the map."""

    memory: Memory
    info: MemoryInfo
    near: tuple[Hit, ...]


def look_at(desk: AppSession, atlas: Atlas, memory_id: str, space: str) -> Opened:
    """One memory and its nearest. Raises LatentmemError."""
    bank = desk.engine.bank
    memory = bank.get(str(memory_id))
    if space == "prompt":
        near = atlas.prompt_hits(memory.id, NEAR)
    else:
        near = (
            desk.engine.changed(key=space).neighbours(memory.id, NEAR)
            if space in memory.keys
            else ()
        )
    return Opened(memory, bank.info(memory.id), near)


def memory_body(desk: AppSession, atlas: Atlas, one: Opened, space: str) -> list[Fragment]:
    """Everything on the page of a memory but its head."""
    bank, m = desk.engine.bank, one.memory
    return body(
        m,
        one.info,
        history(bank, one.info),
        one.near,
        notes=notes(bank, m.id).get(m.id, ()),
        space=space,
        parameters=model_size(desk, m),
        problem_of=problem_finder(desk, atlas),
        kept=bank.asked(m.id),
    )


def receipt_body(
    slip: Receipt, info: MemoryInfo | None, back: str, sure: bool = False
) -> list[Fragment]:
    """A receipt in the place of that. `sure`: whoever looks at it is asked whether to forget it."""
    return stored_receipt(slip, info, back) + forget(slip.id, sure)


def history(bank: Any, info: MemoryInfo) -> History:
    """What happened to a memory. All that is counted, and all verdicts, though of very many events
    only the newest are read."""
    newest = bank.events(info.id, limit=EVENTS)
    if len(newest) < EVENTS:
        return History(newest, (e for e in newest if e.kind in VERDICTS), len(newest))
    by_kind = {kind: bank.events(info.id, kind=kind) for kind in VERDICTS}
    others = sum(
        len(by_kind[kind]) if kind in by_kind else len(bank.events(info.id, kind=kind))
        for kind in WORDS
        if kind not in COUNTED
    )
    told = sorted(
        (e for some in by_kind.values() for e in some), key=lambda e: e.created, reverse=True
    )
    return History(newest, told, others + sum(getattr(info.counters, kind) for kind in COUNTED))


def model_size(desk: AppSession, m: Memory) -> tuple[int, bool] | None:
    """(how many parameters the model of a memory has, whether that is exact); None when it is not
    known here."""
    engine = desk.engine
    if engine.ready and engine.model.fingerprint == m.model:
        return parameters(engine.model), True
    spec = MODELS.get(m.model_name)
    return (
        (spec.folder_bytes // 2, False) if spec is not None else None
    )  # kept in bfloat16: two bytes a number


def problem_finder(desk: AppSession, atlas: Atlas) -> Callable[[str], str | None]:
    """Problem id -> its text, of the examples and of the bank's own problems."""
    known: dict[str, str] = {}

    def find(problem_id: str) -> str | None:
        if not known:
            known.update({i.problem.id: i.problem.text for i in atlas.rows(exact=False).infos})
            known.update({p.id: p.text for p in desk.examples.values()})
        return known.get(problem_id)

    return find


# memories offered in the drop-down lists, the newest first; gradio takes a while to show very many
CHOICES = 200
SKIP = gr.skip()


class Picture(NamedTuple):
    """What a handler sends to the page: the order is that of `Memories.outputs`, then the lists of
    the Solve panel. What is not named is not sent, so the page keeps what it has."""

    notice: Any = SKIP
    table: Any = SKIP
    map: Any = SKIP
    trust: Any = SKIP
    page: Any = SKIP
    chosen: Any = SKIP
    actions: Any = SKIP
    quarantine: Any = SKIP
    release: Any = SKIP
    sure: Any = SKIP
    choice: Any = SKIP
    points: Any = SKIP
    paint: Any = SKIP
    lit: Any = SKIP
    extras: Any = SKIP
    body: Any = SKIP
    words: Any = SKIP
    selected: Any = SKIP
    bulk: Any = SKIP
    picked: Any = SKIP
    delete: Any = SKIP
    method: Any = SKIP
    warning: Any = SKIP
    slip: Any = (
        SKIP  # the id of the receipt that is open in place of the memory's page, "" without one
    )
    seen: Any = SKIP  # the state of the bank that the whole panel was sent of
    solve_memory: Any = SKIP
    solve_other: Any = SKIP


def atlas_of(desk: AppSession) -> Atlas:
    """The pictures of the desk's bank, one atlas for all visitors of the same bank. In a shared app
    that is the atlas of the shared bank for everybody who has neither a memory of their own nor
    done anything to a shared one."""
    bank = desk.engine.bank
    if desk.app is not None and bank.untouched:
        return atlas_of(desk.app)
    atlas = desk.planes.get("atlas")
    if atlas is None or atlas.bank is not bank:
        atlas = desk.planes["atlas"] = Atlas(
            bank, atlas_of(desk.app) if desk.app is not None else None
        )
    return atlas


def said(text: str, good: bool = True) -> list[Fragment]:
    """The line over the memory's page."""
    return fragments(("said", notice(text, "good" if good else "warn"))) if text else []


def sheet_now(atlas: Atlas, space: str, method: str) -> Sheet | None:
    """The picture, if it is there or drawn at once; None when it takes long, so that the page must
    ask for it."""
    found = atlas.ready(space, method)  # type: ignore[arg-type]
    if found is None and method == "pca" and space != "prompt":
        # a page that opens on the map asks twice at its start: the second finds what the first made
        with atlas.drawing:
            found = run(atlas.sheet(space, method))  # type: ignore[arg-type]
    return found


def picture(
    desk: AppSession,
    visit: Visit,
    words: str,
    colour: str,
    space: str,
    chosen: str,
    message: str = "",
    good: bool = True,
    method: str = "pca",
    have: str | None = None,
    receipt_id: str = "",
) -> Picture:
    """The whole panel. Its points only to a page that shows the map now, and if they are not those
    of the stamp that it `have`s: one that shows it later asks for them. What cannot be read is
    said in its place."""
    seen = seen_now(
        desk
    )  # first: what is written while the rows are read is then seen another time
    rows, error = attempt(lambda: atlas_of(desk).rows())
    if rows is None:
        rows, message, good = Rows((), {}, {}), error, False
    part = opened(desk, visit, space, method, chosen, message, good, receipt_id)
    found = rows.found(words or "")
    choices = [(choice_label(i), i.id) for i in found[:CHOICES]]
    everything = (
        choices
        if len(found) == len(rows.infos)
        else [(choice_label(i), i.id) for i in rows.infos[:CHOICES]]
    )
    receipt = last_receipt(visit)  # its own list has the nearest first
    others = (
        everything if receipt is None else other_memories(desk, receipt, visit.runs["solve"].near)
    )
    shown = part.chosen if isinstance(part.chosen, str) else ""
    page = part.page if part.body else no_page(rows.infos, closed=True)
    sheet = (
        sheet_now(atlas_of(desk), space, method)
        if have is not None and rows.infos and not error
        else None
    )
    if sheet is not None and sheet.names:
        part = part._replace(**drawn(sheet, rows, words, colour, have))
    return part._replace(
        table=found_table(rows.infos, found, shown, rows.tags),
        page=page,
        seen=seen,
        choice=gr.update(
            choices=choices, value=shown if shown in {i for _, i in choices} else None
        ),
        solve_memory=gr.update(choices=everything),
        solve_other=gr.update(choices=others),
    )


def seen_now(desk: AppSession) -> str:
    """The state of the bank, to be kept by the page: another one when anything was written."""
    return str(attempt(desk.engine.bank.stamp)[0] or "")


def drawn(
    sheet: Sheet, rows: Rows, words: str, colour: str, have: str | None = None
) -> dict[str, Any]:
    """The points of a picture unless the page has them, their colours, and which of them a search
    found, as members of a Picture."""
    infos = mapped(sheet, rows)
    points = (
        {} if have == sheet.stamp else {"points": points_of(infos, sheet.plane.points, sheet.stamp)}
    )
    return {
        **points,
        "paint": paint(infos, rows.tags, colour, sheet.stamp),
        "lit": lit_by(sheet, rows, words),
    }


def mapped(sheet: Sheet, rows: Rows) -> list[MemoryInfo]:
    """The rows of the points, in their order. Raises LatentmemError if the bank changed on the
    way."""
    try:
        return [rows.by_id[name] for name in sheet.names]
    except KeyError:
        raise LatentmemError(
            "The bank changed while its map was drawn: open the map again."
        ) from None


def lit_by(sheet: Sheet, rows: Rows, words: str) -> dict[str, Any]:
    """Which points a search found; no bits without a search."""
    if not (words or "").split():
        return {"stamp": sheet.stamp, "bits": None, "count": 0}
    return lit(
        [sheet.row[i.id] for i in rows.found(words) if i.id in sheet.row],
        len(sheet.names),
        sheet.stamp,
    )


def opened(
    desk: AppSession,
    visit: Visit,
    space: str,
    method: str,
    chosen: str,
    message: str = "",
    good: bool = True,
    receipt_id: str = "",
    words: str = "",
) -> Picture:
    """What changes when a memory is opened or closed, or the star moves: not the table and not the
    points. A receipt is shown in place of the memory's page, which without `chosen` is that of
    the memory that was tried. `words` were searched
    for: the list of memories to open has only those found, and names the open one if it is among
    them."""
    atlas = atlas_of(desk)
    slip, lost = attempt(lambda: desk.engine.bank.receipt(receipt_id)) if receipt_id else (None, "")
    info = tried(desk, slip) if slip is not None else None
    if info is not None and not chosen:
        chosen = info.id
    one, error = attempt(lambda: look_at(desk, atlas, chosen, space)) if chosen else (None, "")
    sheet, trouble = attempt(lambda: sheet_now(atlas, space, method))
    name = one.info.id if one is not None else ""
    picture_, misled = _map(visit, sheet, space, one, desk)
    text = error or lost or message or trouble
    part = Picture(
        notice=said(text, good and not (error or lost or trouble)),
        map=picture_,
        trust=trust_words(atlas, sheet),
        warning=warnings(sheet, visit, space, misled),
        chosen=name,
        words=[],
        sure=gr.update(visible=False),
        slip=slip.id if slip is not None else "",
        choice=gr.update(value=listed(atlas, name, words)),
    )
    instead = receipt_body(slip, info, name) if slip is not None else []
    if one is None:
        rows, _ = attempt(atlas.rows)  # exact: the numbers of the glance are counted anew
        page = (
            no_memory(slip)
            if slip is not None
            else no_page(rows.infos if rows is not None else (), closed=True)
        )
        return part._replace(page=page, body=instead, actions=gr.update(visible=False))
    bank, shut = desk.engine.bank, one.info.quarantined
    mine = bank.owns(name)  # in a shared app most belong to its keeper
    return part._replace(
        page=head(
            one.memory,
            one.info,
            tags(bank, name).get(name, ()),
            slip.id if slip is not None else "",
        ),
        body=instead or memory_body(desk, atlas, one, space),
        actions=gr.update(visible=True),
        quarantine=gr.update(visible=not shut),
        release=gr.update(visible=shut),
        delete=gr.update(
            interactive=mine, value="Delete…" if mine else "Shared: not yours to delete"
        ),
    )


def _map(
    visit: Visit, sheet: Sheet | None, space: str, one: Opened | None, desk: AppSession
) -> tuple[dict[str, Any], Markup]:
    """(the star, edges and open memory on the map, a warning where the picture misleads)"""
    if sheet is None or not sheet.names:
        return {
            "stamp": "" if sheet is not None else "?",
            "data": [],
            "layout": {"annotations": []},
            "open": "",
        }, Markup("")
    star = visit.star if visit.star is not None and visit.star.kind == space else None
    hits = star.hits if star is not None else one.near if one is not None else ()
    name = one.info.id if one is not None else ""
    rows = {i: sheet.row[i] for i in [*(h.memory_id for h in hits), name] if i in sheet.row}
    where = {i: np.asarray(sheet.plane.points[row], float) for i, row in rows.items()}
    at = None
    if star is not None:
        at = sheet.plane.project(star.key)
        ends = [(where[h.memory_id], h.similarity) for h in hits if h.memory_id in where]
        if at is None and ends:
            at = between(np.array([p for p, _ in ends]), [s for _, s in ends])
    message = mark(
        sheet.stamp,
        len(sheet.names),
        where,
        chosen=name,
        star=at,
        star_text=star.text if star is not None else "",
        hits=hits,
        row=rows,
    ) | {"open": name}
    origin, own = (at, None) if at is not None else (where.get(name), rows.get(name))
    infos = atlas_of(desk).rows(exact=False).by_id
    named = [infos[i] for i in sheet.names] if all(i in infos for i in sheet.names) else []
    return message, misleads(named, sheet.plane, origin, hits, own) if named else Markup("")


def listed(atlas: Atlas, name: str, words: str) -> str | None:
    """The open memory as the value of the list of those found, which is cut; None if it is not in
    it."""
    rows, _ = attempt(lambda: atlas.rows(exact=False)) if name else (None, "")
    found = rows.found(words or "")[:CHOICES] if rows is not None else ()
    return name if any(i.id == name for i in found) else None


def trust_words(atlas: Atlas, sheet: Sheet | None) -> list[Fragment]:
    """How far the picture may be believed."""
    if sheet is None:
        return []
    return fragments(
        (
            "trust",
            trust(
                sheet.plane,
                len(sheet.names),
                space=sheet.space,
                left_out=atlas.left_out(sheet),
                measured=sheet.extras.get("trust"),
            ),
        )
    )


def warnings(sheet: Sheet | None, visit: Visit, space: str, misled: Markup) -> list[Fragment]:
    """Where the picture misleads, and why the star may be missing or not quite right."""
    lost = Markup("")
    if visit.star is not None and space == "prompt":
        lost = Markup(
            '<p class="hint">Your problem has no soft prompt, so it has no place on this map: '
            "choose another meaning "
            "of near to see it.</p>"
        )
    elif visit.star is not None and visit.star.kind != space:
        lost = Markup(
            '<p class="hint">Your problem was placed by another meaning of near: press <b>Place '
            "it</b> again.</p>"
        )
    elif visit.star is not None and sheet is not None and sheet.plane.axes is None:
        lost = Markup(
            '<p class="hint">Your problem lies between its nearest memories, by their '
            "similarity.</p>"
        )
    return fragments(("misleads", misled), ("lost", lost))


def refresh(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """The panel as the bank is now."""
    return picture(desk, desk.visit(request), words, colour, space, chosen, method=method)


def clicked(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    event: gr.EventData,
    request: gr.Request,
) -> Picture:
    """Opens the memory of a point or link that was clicked, "" for none. What comes from the
    browser is checked."""
    data, visit = event._data if isinstance(event._data, dict) else {}, desk.visit(request)
    if data.get("star") is False:
        visit.star = None
    visit.looked = True
    return opened(desk, visit, space, method, str(data.get("id", ""))[:80], words=words)


def show_receipt(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    event: gr.EventData,
    request: gr.Request,
) -> Picture:
    """Opens a receipt in place of the open memory's page, or of the one that the address names with
    it."""
    data = event._data if isinstance(event._data, dict) else {}
    memory, visit = str(data.get("memory", chosen))[:80], desk.visit(request)
    visit.looked = True
    return opened(
        desk, visit, space, method, memory, receipt_id=str(data.get("id", ""))[:80], words=words
    )
