"""What the Memories panel shows: the whole of it, or the part that a click changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import gradio as gr
import numpy as np
from markupsafe import Markup

from ...bank.notes import notes, tags
from ...method.trust import standing
from ...model.vocabulary import parameters
from ...records import Hit, LatentmemError, Memory, MemoryInfo
from ..components import CHOICES, other_memories
from ..session import AppSession, Visit, attempt, last_receipt, tried
from ..views.html import Fragment, fragments, notice
from ..views.memory import body, choice_label, found_table, head, no_page, star_near
from ..views.receipt import forget, no_memory, stored_receipt
from .atlas import Atlas, Rows, Sheet
from .messages import map_figure, mark, misleads, trust
from .projection import between, run

if TYPE_CHECKING:
    from ...bank import MemoryBank
    from ...engine import Engine

NEAR = 5
SKIP = gr.skip()


@dataclass(frozen=True, eq=False)
class Ask:
    """What a handler of the Memories panel is asked with: the visitor, how the panel stands, and
    what a custom event brought along."""

    session: AppSession
    visit: Visit
    words: str = ""  # that are searched for
    colour: str = "source"
    space: str = "input"
    method: str = "pca"
    chosen: str = ""  # id of the open memory
    data: dict[str, Any] = field(default_factory=dict)
    address: dict[str, str] = field(default_factory=dict)  # the parameters in the page's address

    @property
    def bank(self) -> MemoryBank:
        return self.session.engine.bank

    @property
    def atlas(self) -> Atlas:
        return atlas_of(self.session)

    @property
    def sheet(self) -> Sheet | None:
        """The map as it is asked for, if it was made."""
        return self.atlas.ready(self.space, self.method)  # type: ignore[arg-type]

    def text(self, name: str, default: str = "") -> str:
        """A short text of the event. What comes from the browser is not trusted."""
        return str(self.data.get(name, default))[:200]


class Picture(NamedTuple):
    """What a handler sends to the page, by the components' names. A part that is not named is not
    sent, so the page keeps what it has."""

    notice: Any = SKIP
    table: Any = SKIP
    map: Any = SKIP
    trust: Any = SKIP
    page: Any = SKIP
    chosen: Any = SKIP
    actions: Any = SKIP
    tools: Any = SKIP
    quarantine: Any = SKIP
    release: Any = SKIP
    sure: Any = SKIP
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
    slip: Any = SKIP  # the receipt that is open in place of the memory's page, "" without one
    seen: Any = SKIP  # the state of the bank that the panel shows
    tag: Any = SKIP
    note: Any = SKIP
    bulk_tag: Any = SKIP
    ask: Any = SKIP
    solve_memory: Any = SKIP
    solve_other: Any = SKIP

    def parts(self) -> dict[str, Any]:
        """The parts that are sent."""
        return {name: part for name, part in self._asdict().items() if part is not SKIP}


def message(text: str, good: bool = True) -> list[Fragment]:
    """The line over the memory's page."""
    return fragments(("message", notice(text, "good" if good else "warn"))) if text else []


def atlas_of(session: AppSession) -> Atlas:
    """The maps of a bank, one atlas for all its visitors. In a shared app that is the atlas of the
    shared bank for everybody who has neither a memory of their own nor changed a shared one."""
    bank = session.engine.bank
    if session.app is not None and bank.untouched:
        return atlas_of(session.app)
    atlas = session.planes.get("atlas")
    if atlas is None or atlas.bank is not bank:
        like = atlas_of(session.app) if session.app is not None else None
        atlas = session.planes["atlas"] = Atlas(bank, like)
    return atlas


# ---------- The page of one memory, or of a receipt in its place.


class Opened(NamedTuple):
    """The open memory, with those nearest to it in the space of the map."""

    memory: Memory
    info: MemoryInfo
    near: tuple[Hit, ...]


def look_at(ask: Ask) -> Opened:
    """The open memory and its nearest. Raises LatentmemError."""
    memory, near = ask.bank.get(ask.chosen), ()
    if ask.space == "prompt":
        near = ask.atlas.prompt_hits(memory.id, NEAR)
    elif ask.space in memory.keys:
        near = ask.session.engine.changed(key=ask.space).neighbours(memory.id, NEAR)
    return Opened(memory, ask.bank.info(memory.id), near)


def memory_body(ask: Ask, one: Opened) -> list[Fragment]:
    """Everything on the page of a memory but its head."""
    bank, m = ask.bank, one.memory
    return body(
        m,
        one.info,
        bank.events(one.info.id),
        one.near,
        notes=notes(bank, m.id).get(m.id, ()),
        space=ask.space,
        parameters=model_size(ask.session.engine, m),
        problem_of=problem_finder(ask.session),
        kept=bank.asked(m.id),
        moved=attempt(lambda: moves(ask.session.engine, m))[0] or [],
    )


def model_size(engine: Engine, m: Memory) -> int | None:
    """How many parameters the model of a memory has; None when it is not loaded here."""
    loaded = engine.ready and engine.model.fingerprint == m.model
    return parameters(engine.model) if loaded else None


def moves(engine: Engine, m: Memory) -> list[tuple[str, float]]:
    """Of each virtual token the word that it started as, and how far it moved, in lengths of its
    start; of layer vectors the size of each layer's, in units of what the layer adds itself.
    Nothing where the model is not loaded or the start is unknown."""
    text = str(m.settings.get("init_text") or "")
    if not (text and engine.ready and engine.model.fingerprint == m.model):
        return []
    if m.soft_prompt.ndim == 3:
        scale = engine.model.layer_scale().cpu().numpy()
        sizes = np.sqrt(np.square(m.soft_prompt / scale).mean(axis=(1, 2)))
        return [(f"layer {i}", size) for i, size in enumerate(sizes.tolist(), 1)]
    start = np.asarray(engine.model.text_prompt(text, len(m.soft_prompt)).cpu())
    ids = engine.model.tokenizer(text, add_special_tokens=False)["input_ids"]
    words = [engine.model.tokenizer.decode([ids[i % len(ids)]]) for i in range(len(start))]
    far = np.linalg.norm(m.soft_prompt - start, axis=1) / np.linalg.norm(start, axis=1)
    return list(zip(words, far.tolist(), strict=True))


def problem_finder(session: AppSession) -> Callable[[str], str | None]:
    """Problem id -> its text, of the examples and of the bank's own problems."""

    @cache
    def known() -> dict[str, str]:  # not before it is asked for
        stored = [i.problem for i in atlas_of(session).rows(exact=False).infos]
        return {p.id: p.text for p in (*stored, *session.examples.values())}

    return lambda problem_id: known().get(problem_id)


# ---------- The panel.


def sheet_now(ask: Ask) -> Sheet | None:
    """The map, if it is there or made at once; None when that takes long, so that the page has to
    ask for it. Raises LatentmemError."""
    if ask.sheet is None and ask.method == "pca" and ask.space != "prompt":
        return run(ask.atlas.sheet(ask.space, ask.method))  # type: ignore[arg-type]
    return ask.sheet


def opened(ask: Ask, text: str = "", good: bool = True, receipt_id: str = "") -> Picture:
    """What changes when a memory is opened or closed, or the star moves: neither the table nor the
    points. A receipt is shown in place of the memory's page, which without an open memory is that
    of the memory that was tried. What cannot be read is told in its place."""
    slip, lost = attempt(lambda: ask.bank.receipt(receipt_id)) if receipt_id else (None, "")
    info = tried(ask.session, slip) if slip is not None else None
    if info is not None and not ask.chosen:
        ask = replace(ask, chosen=info.id)
    one, error = attempt(lambda: look_at(ask)) if ask.chosen else (None, "")
    sheet, trouble = attempt(lambda: sheet_now(ask))
    name = one.info.id if one is not None else ""
    lines, misled = _lines(ask, sheet, one)
    part = Picture(
        notice=message(error or lost or text or trouble, good and not (error or lost or trouble)),
        map=lines,
        trust=trust_words(ask.atlas, sheet),
        warning=warnings(ask, sheet, misled),
        chosen=name,
        words=[],
        sure=gr.update(visible=False),
        slip=slip.id if slip is not None else "",
    )
    instead = []
    if slip is not None:
        instead = stored_receipt(slip, info, name) + forget(slip.id)
    if one is not None:
        return part._replace(**_page(ask, one, part.slip), body=instead or memory_body(ask, one))
    rows, _ = attempt(ask.atlas.rows)  # exact: the numbers of the glance are counted anew
    star = ask.visit.star
    least = ask.session.engine.settings.min_similarity
    near = star_near(star.text, star.hits, least, star.kind) if star is not None else Markup("")
    none = no_page(rows.infos if rows is not None else (), True, near)
    page = no_memory(slip) if slip is not None else none
    gone = gr.update(visible=False)
    return part._replace(page=page, body=instead, actions=gone, tools=gone)


def _page(ask: Ask, one: Opened, slip: str) -> dict[str, Any]:
    """The head of the open memory's page, and what can be done with it."""
    name, shut = one.info.id, one.info.quarantined
    mine = ask.bank.owns(name)  # in a shared app most belong to its keeper
    delete = "Delete…" if mine else "Shared: not yours to delete"
    return {
        "page": head(
            one.memory,
            one.info,
            tags(ask.bank, name).get(name, ()),
            slip,
            standing(ask.bank, one.memory, ask.session.engine.settings.key),
        ),
        "actions": gr.update(visible=True),
        "tools": gr.update(visible=True),
        "quarantine": gr.update(visible=not shut),
        "release": gr.update(visible=shut),
        "delete": gr.update(interactive=mine, value=delete),
    }


def picture(
    ask: Ask, text: str = "", good: bool = True, receipt_id: str = "", points: bool = False
) -> Picture:
    """The whole panel. Its points only to a page that opens on the map: any other asks for them
    when it shows it."""
    seen = seen_now(ask)  # first: what is written while the rows are read is then seen next time
    rows, error = attempt(ask.atlas.rows)
    if rows is None:
        rows, text, good = Rows((), {}, {}), error, False
    part = opened(ask, text, good, receipt_id)
    found = rows.found(ask.words or "")
    everything = choices(rows.infos)
    receipt = last_receipt(ask.visit)  # its own list has the nearest first
    others = everything
    if receipt is not None:
        others = other_memories(ask.session, receipt, ask.visit.runs["solve"].near)
    if points and ask.sheet is not None and ask.sheet.names:
        part = part._replace(**drawn(ask, ask.sheet, rows))
    return part._replace(
        table=found_table(rows.infos, found, part.chosen, rows.tags),
        seen=seen,
        solve_memory=gr.update(choices=everything),
        solve_other=gr.update(choices=others),
    )


def choices(infos: Any) -> list[tuple[str, str]]:
    """(label, id) of the newest memories, for a drop-down list."""
    return [(choice_label(i), i.id) for i in infos[:CHOICES]]


def seen_now(ask: Ask) -> str:
    """The state of the bank, to be kept by the page: another one when anything was written."""
    return str(attempt(ask.bank.stamp)[0] or "")


# ---------- The map.


def drawn(ask: Ask, sheet: Sheet, rows: Rows) -> dict[str, Any]:
    """The points of a map, their colours, and which of them a search found, as parts of a
    Picture. Raises LatentmemError if the bank changed on the way."""
    figure = map_figure(
        mapped(sheet, rows),
        sheet.plane,
        stamp=sheet.stamp,
        colour_by=ask.colour,
        tags=rows.tags,
        shown=sheet.shown,
    )
    return {**figure, "lit": lit(ask, sheet, rows)}


def mapped(sheet: Sheet, rows: Rows) -> list[MemoryInfo]:
    """The rows of the points, in their order. Raises LatentmemError if the bank changed."""
    try:
        return [rows.by_id[name] for name in sheet.names]
    except KeyError:
        raise LatentmemError(
            "The bank changed while its map was drawn: open the map again."
        ) from None


def lit(ask: Ask, sheet: Sheet, rows: Rows) -> dict[str, Any]:
    """Which points a search found; None without a search."""
    found = None
    if (ask.words or "").split():
        found = [sheet.drawn[i.id] for i in rows.found(ask.words) if i.id in sheet.drawn]
    return {"stamp": sheet.stamp, "rows": found}


def _lines(ask: Ask, sheet: Sheet | None, one: Opened | None) -> tuple[dict[str, Any], Markup]:
    """(the star, edges and open memory on the map, a warning where the picture misleads)"""
    if sheet is None or not sheet.names:
        stamp = "" if sheet is not None else "?"
        return {"stamp": stamp, "data": [], "annotations": [], "open": ""}, Markup("")
    star = ask.visit.star
    if star is not None and star.kind != ask.space:
        star = None
    hits = star.hits if star is not None else one.near if one is not None else ()
    name, points = one.info.id if one is not None else "", sheet.plane.points
    named = [i for i in (*(h.memory_id for h in hits), name) if i in sheet.row]
    where = {i: np.asarray(points[sheet.row[i]], float) for i in named}
    at = None
    if star is not None:
        at = sheet.plane.project(star.key)
        ends = [(where[h.memory_id], h.similarity) for h in hits if h.memory_id in where]
        if at is None and ends:
            at = between(np.array([p for p, _ in ends]), [s for _, s in ends])
    lines = mark(
        sheet.stamp,
        len(sheet.names),
        where,
        chosen=name,
        star=at,
        star_text=star.text if star is not None else "",
        hits=hits,
        row=sheet.drawn,
    )
    return lines, misleads(where, at if at is not None else where.get(name), hits)


def trust_words(atlas: Atlas, sheet: Sheet | None) -> list[Fragment]:
    """How far the map may be believed."""
    if sheet is None:
        return []
    words = trust(
        sheet.plane,
        len(sheet.names),
        space=sheet.space,
        left_out=atlas.left_out(sheet),
        shown=len(sheet.shown),
        measured=sheet.extras.get("trust"),
    )
    return fragments(("trust", words))


def warnings(ask: Ask, sheet: Sheet | None, misled: Markup) -> list[Fragment]:
    """Where the map misleads, and why the star may be missing or not quite right."""
    star, why = ask.visit.star, ""
    if star is None:
        pass
    elif ask.space == "prompt":
        why = (
            "Your problem has no soft prompt, so it has no place on this map: choose another "
            "<b>Distance by</b> to see it."
        )
    elif star.kind != ask.space:
        why = "Your problem was placed by another distance: press <b>Place</b> again."
    elif sheet is not None and sheet.plane.axes is None:
        why = "Your problem lies between its nearest memories, by their similarity."
    return fragments(("misleads", misled), ("lost", why and f'<p class="hint">{why}</p>'))
