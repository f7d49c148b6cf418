"""What the map asks the server for: the points of a picture, colours, what a search finds, and what
was selected.

A picture comes in three steps: `draw` makes it, `want` sends its points, `explain` what helps to
read it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from ...records import LatentmemError, MemoryInfo
from ..runs import follow
from ..session import AppSession, attempt
from ..views.html import fragments, progress
from ..views.memory import choice_label, found_table, selected
from . import projection
from .atlas import Atlas, Rows, Sheet, chosen_rows
from .messages import extras, paint
from .panel_state import (
    CHOICES,
    SKIP,
    Picture,
    atlas_of,
    drawn,
    lit_by,
    mapped,
    opened,
    picture,
    said,
    seen_now,
    trust_words,
)
from .projection import run, trustworthiness

MOST_PICKED = 1 << 20  # characters of a selection that the browser may send


def draw(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Iterator[Any]:
    """Makes the picture that the page is to show, with progress over the map.

    Progress goes to one component alone: in a stream whose parts skip a component, gradio 6.31
    empties it at the second.
    """
    atlas, made = atlas_of(desk), desk.visit(request).start("map")
    yield gr.skip()
    if atlas.ready(space, method) is None:  # type: ignore[arg-type]
        for _ in follow(atlas.sheet(space, method), made):  # type: ignore[arg-type]
            yield fragments(("status", progress(made.scene.status)))


def want(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """The points of the picture that `draw` made. A projection that failed leaves the map with PCA
    and one sentence."""
    visit, atlas = desk.visit(request), atlas_of(desk)
    made = visit.runs.get("map")
    if made is not None and made.stop.is_set():
        return Picture()  # another picture is wanted by now
    error = made.error if made is not None else ""
    if error and method != "pca":
        method = "pca"
        run(atlas.sheet(space, method))  # type: ignore[arg-type]
    part = opened(desk, visit, space, method, chosen, error, good=not error)
    told = {"notice": part.notice, "method": method} if error else {}
    part = Picture(map=part.map, trust=part.trust, warning=part.warning, **told)
    sheet = atlas.ready(space, method)  # type: ignore[arg-type]
    if sheet is None:
        return Picture()  # as above: another one is being made, and its points come when it is
    if not sheet.names:
        return part._replace(points={"stamp": part.map.get("stamp", ""), "n": 0}, trust=[])
    return part._replace(**drawn(sheet, atlas.rows(), words, colour))


def explain(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """What helps to read a picture, once its points are there: names of groups, density, how far it
    can be trusted."""
    atlas = atlas_of(desk)
    sheet = atlas.ready(space, method)  # type: ignore[arg-type]
    if sheet is None or not sheet.names:
        return Picture()
    _, trouble = attempt(lambda: study(atlas, sheet, atlas.rows(exact=False)))
    if trouble:
        return Picture(notice=said(trouble, False))
    return Picture(extras=sheet.extras["shown"], trust=trust_words(atlas, sheet))


def study(atlas: Atlas, sheet: Sheet, rows: Rows) -> None:
    """Names of groups, density and trust of a picture, once."""
    if "shown" in sheet.extras:
        return
    where = sheet.plane.points
    found = projection.groups(where, [i.problem.text for i in mapped(sheet, rows)])
    vectors = run(atlas.vectors(sheet.space))
    if vectors.names == sheet.names:
        sheet.extras["trust"] = trustworthiness(vectors.matrix, where)
    sheet.extras["shown"] = extras(found, projection.density(where), sheet.stamp)


def recolour(
    desk: AppSession, words: str, colour: str, space: str, method: str, request: gr.Request
) -> Picture:
    """Other colours for the points that the page has."""
    atlas = atlas_of(desk)
    sheet = atlas.ready(space, method)  # type: ignore[arg-type]
    if sheet is None:
        return Picture()
    painted, error = attempt(
        lambda: paint(mapped(sheet, atlas.rows()), atlas.rows().tags, colour, sheet.stamp)
    )
    return Picture(paint=painted) if painted is not None else Picture(notice=said(error, False))


def search(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    request: gr.Request,
) -> Picture:
    """The rows that a search finds, in the table and bright on the map."""
    atlas = atlas_of(desk)
    rows, error = attempt(lambda: atlas.rows())
    if rows is None:
        return Picture(notice=said(error, False))
    found, sheet = rows.found(words or ""), atlas.ready(space, method)  # type: ignore[arg-type]
    choices = [(choice_label(i), i.id) for i in found[:CHOICES]]
    return Picture(
        table=found_table(rows.infos, found, chosen, rows.tags),
        lit=lit_by(sheet, rows, words) if sheet is not None else None,
        choice=gr.update(
            choices=choices, value=chosen if chosen in {i for _, i in choices} else None
        ),
    )


def looked_at(
    desk: AppSession,
    words: str,
    colour: str,
    space: str,
    method: str,
    chosen: str,
    slip: str,
    seen: str,
    request: gr.Request,
) -> Picture:
    """The panel is shown again: as the bank is now, if anything was written since it was sent. An
    answer on Solve and what is said of it are such things. A page that was just loaded is sent
    everything without being asked."""
    if not seen or seen == seen_now(desk):
        return Picture()
    part = picture(
        desk, desk.visit(request), words, colour, space, chosen, method=method, receipt_id=slip
    )
    if colour in ("helped", "tags"):  # by which answers and visitors change the colours
        part = part._replace(paint=recolour(desk, words, colour, space, method, request).paint)
    return part._replace(
        words=SKIP, sure=SKIP, notice=part.notice or SKIP
    )  # what the visitor had open there stays


# ------------------------------------------------------------------ selection
def picked(desk: AppSession, chosen: str, event: gr.EventData, request: gr.Request) -> Picture:
    """Points were selected with the box, the lasso, the keyboard or the table: their rows, and what
    can be done with them."""
    data = event._data if isinstance(event._data, dict) else {}
    given = json.dumps(
        {"stamp": str(data.get("stamp", ""))[:40], "bits": str(data.get("bits", ""))[:MOST_PICKED]}
    )
    return show_selection(desk, given, chosen)


def show_selection(desk: AppSession, given: str, chosen: str = "", message: str = "") -> Picture:
    """The selection area for what `picked` took down."""
    infos, error = attempt(lambda: selection(desk, given))
    if infos is None:
        return Picture(
            notice=said(error, False), selected=[], bulk=gr.update(visible=False), picked=""
        )
    rows = atlas_of(desk).rows()
    shown = selected(infos, chosen, rows.tags)
    return Picture(
        selected=shown,
        bulk=gr.update(visible=bool(infos)),
        picked=given if infos else "",
        **({"notice": said(message)} if message else {}),
    )


def selection(desk: AppSession, given: str) -> list[MemoryInfo]:
    """The selected memories, newest first. Raises LatentmemError when the bank changed since they
    were selected."""
    if not given:
        return []
    try:
        data = json.loads(given)
        bits = base64.b64decode(data["bits"], validate=True)
        wanted = data["stamp"]
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise LatentmemError("The selection cannot be read: select again.") from None
    atlas = atlas_of(desk)
    sheet = atlas.of_stamp(str(wanted))
    if sheet is None:
        raise LatentmemError("The map changed since these memories were selected: select again.")
    names = set(chosen_rows(bits, sheet.names))
    return [i for i in atlas.rows().infos if i.id in names]
