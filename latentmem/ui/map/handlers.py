"""What the map and the table ask the server for: points, colours, what a search finds, what was
selected, and the memory or receipt to open.

A map comes in three steps: `draw` makes it, `want` sends its points, `explain` what helps to read
it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from ...records import LatentmemError, MemoryInfo
from ..runs import follow
from ..session import attempt
from ..views.html import Fragment, fragments, progress
from ..views.memory import found_table, selected, versus
from .atlas import Rows, Sheet
from .messages import extras, paint
from .panel_state import (
    SKIP,
    Ask,
    Picture,
    drawn,
    lit,
    mapped,
    message,
    opened,
    picture,
    seen_now,
    trust_words,
)
from .projection import families, groups, run, trustworthiness

MOST_PICKED = 100_000  # ids of a selection that the browser may send


# ---------- The map.


def draw(ask: Ask) -> Iterator[Any]:
    """Makes the map that the page is to show, with progress over it.

    Progress goes to one component alone: in a stream whose parts skip a component, gradio 6.31
    empties it at the second.
    """
    making = ask.visit.start("map")
    yield SKIP
    if ask.sheet is None:
        for _ in follow(ask.atlas.sheet(ask.space, ask.method), making):  # type: ignore[arg-type]
            yield fragments(("status", progress(making.scene.status)))


def want(ask: Ask) -> Picture:
    """The points of the map that `draw` made. A projection that failed leaves the map with PCA and
    one sentence."""
    made = ask.visit.runs.get("map")
    if made is not None and made.stop.is_set():
        return Picture()  # another map is wanted by now
    error = made.error if made is not None else ""
    if error and ask.method != "pca":
        ask = replace(ask, method="pca")
        run(ask.atlas.sheet(ask.space, ask.method))  # type: ignore[arg-type]
    part, sheet = opened(ask, error, good=not error), ask.sheet
    told = {"notice": part.notice, "method": ask.method} if error else {}
    part = Picture(map=part.map, trust=part.trust, warning=part.warning, **told)
    if sheet is None:
        return Picture()  # another map is being made, and its points come when it is
    if not sheet.names:
        return part._replace(points={"stamp": part.map["stamp"]}, trust=[])
    return part._replace(**drawn(ask, sheet, ask.atlas.rows()))


def explain(ask: Ask) -> Picture:
    """What helps to read the map: names of groups, and how far it can be trusted."""
    sheet = ask.sheet
    if sheet is None or not sheet.names:
        return Picture()
    _, trouble = attempt(lambda: study(ask, sheet, ask.atlas.rows(exact=False)))
    if trouble:
        return Picture(notice=message(trouble, False))
    return Picture(extras=sheet.extras["shown"], trust=trust_words(ask.atlas, sheet))


def study(ask: Ask, sheet: Sheet, rows: Rows) -> None:
    """Names of groups and trust of a map, once."""
    if "shown" in sheet.extras:
        return
    where = sheet.plane.points
    infos = mapped(sheet, rows)
    found = families(where, [i.problem.source for i in infos])
    if len(found) < 2:
        found = groups(where, [i.problem.text for i in infos])
    vectors = run(ask.atlas.vectors(sheet.space))
    if vectors.names == sheet.names:
        sheet.extras["trust"] = trustworthiness(vectors.matrix, where)
    sheet.extras["shown"] = extras(found, sheet.stamp)


def recolour(ask: Ask) -> Picture:
    """Other colours for the points that the page has."""
    sheet, rows = ask.sheet, ask.atlas.rows()
    if sheet is None:
        return Picture()
    painted, error = attempt(
        lambda: paint(mapped(sheet, rows), rows.tags, ask.colour, sheet.stamp, sheet.shown)
    )
    return Picture(paint=painted) if painted is not None else Picture(notice=message(error, False))


def search(ask: Ask) -> Picture:
    """The rows that a search finds, in the table and bright on the map."""
    rows, error = attempt(ask.atlas.rows)
    if rows is None:
        return Picture(notice=message(error, False))
    found, sheet = rows.found(ask.words or ""), ask.sheet
    return Picture(
        table=found_table(rows.infos, found, ask.chosen, rows.tags),
        lit=lit(ask, sheet, rows) if sheet is not None else SKIP,
    )


# ---------- The memory or the receipt to open, and the panel as a whole.


def looked_at(ask: Ask, slip: str, seen: str) -> Picture:
    """The panel is shown again: as the bank is now, if anything was written since it was sent. An
    answer on Solve and its verdict are such things. A page that was just loaded is sent everything
    without being asked."""
    if not seen or seen == seen_now(ask):
        return Picture()
    part = picture(ask, receipt_id=slip)
    if ask.colour in ("helped", "tags"):  # by which answers and visitors change the colours
        part = part._replace(paint=recolour(ask).paint)
    # what the visitor had open there stays
    return part._replace(words=SKIP, sure=SKIP, notice=part.notice or SKIP)


def clicked(ask: Ask) -> Picture:
    """Opens the memory of a point or link that was clicked, "" for none."""
    if ask.data.get("star") is False:
        ask.visit.star = None
    ask.visit.looked = True
    return opened(replace(ask, chosen=ask.text("id")))


def shut(ask: Ask) -> Picture:
    """Closes the open memory; the star stays."""
    return opened(replace(ask, chosen=""))


def clear(ask: Ask) -> Picture:
    """Takes the star away and closes the memory."""
    ask.visit.star = None
    return shut(ask)._replace(ask="")


def show_receipt(ask: Ask) -> Picture:
    """Opens a receipt in place of a memory's page, which the address may name."""
    ask.visit.looked = True
    memory = ask.text("memory", ask.chosen)
    return opened(replace(ask, chosen=memory), receipt_id=ask.text("id"))


# ---------- The selection.


def picked(ask: Ask) -> Picture:
    """Memories were selected with the box, the lasso, the keyboard or the table: their rows, and
    what can be done with them."""
    ids = ask.data.get("ids")
    ids = [str(i)[:80] for i in ids[:MOST_PICKED]] if isinstance(ids, list) else []
    return show_selection(ask, json.dumps(ids) if ids else "")


def show_selection(ask: Ask, given: str) -> Picture:
    """The selection area for what `picked` kept."""
    infos, error = attempt(lambda: selection(ask, given))
    if infos is None:
        gone = gr.update(visible=False)
        return Picture(notice=message(error, False), selected=[], bulk=gone, picked="")
    beside: list[Fragment] = []
    if len(infos) == 2:
        beside = attempt(lambda: two(ask, infos))[0] or []
    return Picture(
        selected=selected(infos, ask.chosen, ask.atlas.rows().tags) + beside,
        bulk=gr.update(visible=bool(infos)),
        picked=given if infos else "",
    )


def two(ask: Ask, infos: Sequence[MemoryInfo]) -> list[Fragment]:
    """Two selected memories side by side. Raises LatentmemError."""
    a, b = (ask.bank.get(i.id) for i in infos)
    return versus(list(zip((a, b), infos, strict=True)), float(a.keys["input"] @ b.keys["input"]))


def selection(ask: Ask, given: str) -> list[MemoryInfo]:
    """The selected memories that are still in the bank, newest first. Raises LatentmemError."""
    names = set(json.loads(given)) if given else set()
    return [i for i in ask.atlas.rows().infos if i.id in names]


def some_selected(ask: Ask, given: str) -> list[str]:
    """Their ids. Raises LatentmemError when nothing is selected."""
    ids = [i.id for i in selection(ask, given)]
    if not ids:
        raise LatentmemError(
            "Nothing is selected: draw a box or a lasso on the map, or tick rows of the table."
        )
    return ids
