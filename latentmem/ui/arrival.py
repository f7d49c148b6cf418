"""A visitor opens the page: what it shows first, what a reload brings back, and the line at the top."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..overlay import Overlay
from ..records import Problem
from . import distil as distil_panel
from . import memories as memories_panel
from . import solve as solve_panel
from . import stream as stream_panel
from .early import opens_map
from .map_picture import SKIP
from .map_wiring import OPENED
from .session import Desk, attempt, family
from .views import Fragment, fragments, notice
from .views_about import header_facts
from .visits import LONG


def opening(desk: Desk) -> Problem:
    """The problem in the box of a first visitor: one of a family that the bank has a memory of, if there is one."""
    rows, _ = attempt(lambda: desk.engine.bank.infos(limit=200))
    learnt = {i.problem.text.strip() for i in rows or []}
    families = {i.problem.source for i in rows or []}
    fresh = [p for t, p in desk.examples.items() if t not in learnt and p.source in families]
    return (fresh or list(desk.examples.values()))[0]


def families(desk: Desk) -> dict[str, list[str]]:
    """Family -> the texts of its examples."""
    found: dict[str, list[str]] = {}
    for text, problem in desk.examples.items():
        found.setdefault(family(problem), []).append(text)
    return dict(sorted(found.items()))


def welcome(desk: Desk, token: str, request: gr.Request) -> tuple[Any, ...]:
    """Runs that go on or have still to begin, line at the top, and what the tab showed before a reload.

    `token` is the browser tab's own.

    `?problem=...` fills the box; which panel `?memory=ID`, `?receipt=ID` and `?panel=NAME` open, `page.js` says.
    """
    visit = desk.visits.claim(getattr(request, "session_hash", None) or "", str(token or ""))
    visit.looked = False
    mine = desk.at(request)
    asked = dict(request.query_params) if request is not None else {}
    problem = str(asked.get("problem", ""))[:20_000]
    desk.warming.start(desk.engine)
    solve_panel.linked(visit, problem)
    runs = [(name, visit.runs[name]) for name in LONG if name in visit.runs]
    again = [f"{name}_goes_on" for name, run in runs if run.busy] + [f"{name}_begins" for name, run in runs if run.pressed]
    return ({"again": again} if again else gr.skip(), *head(mine),
            *solve_panel.restored(mine, visit, problem), *distil_panel.restored(mine, visit),
            *stream_panel.restored(mine, visit))


def show_map(desk: Desk, have: str, request: gr.Request) -> tuple[Any, ...]:
    """The Memories panel of a page that was just loaded; `?memory=ID` opens a memory, `?receipt=ID` a receipt. `have`: the
    stamp of the points that the page got beforehand."""
    asked = dict(request.query_params) if request is not None else {}
    memory, receipt = (str(asked.get(name, ""))[:80] for name in ("memory", "receipt"))
    visit = desk.visit(request)
    part = memories_panel.picture(desk, visit, "", "source", desk.engine.settings.key, memory,
                                  have=str(have or "") if opens_map(asked) else None, receipt_id=receipt)
    # The first picture of a bank takes a second, in which a visitor may have opened a memory: it stays.
    if not visit.looked:
        return part
    listed = {k: v for k, v in part.choice.items() if k != "value"}
    return part._replace(choice=listed, **dict.fromkeys(OPENED, SKIP))


def head(desk: Desk) -> tuple[list[Fragment], Any]:
    """The line at the top, and whether it has to be looked at again: while the models are loading."""
    engine, warming = desk.engine, desk.warming
    counted, error = attempt(lambda: (len(engine.bank), len(engine.bank.own) if isinstance(engine.bank, Overlay) else 0))
    if error:
        line = fragments(("error", notice(error, "warn")))
    else:
        line = fragments(("facts", header_facts(engine.settings, engine.ready, *counted,
                                                status=warming.status if warming.busy else None, error=warming.error)))
    return line, gr.update(active=warming.busy and not engine.ready)


def leave(desk: Desk, request: gr.Request) -> None:
    """The visitor closed the page: what was kept for them is freed, after a while if the tab may come back."""
    desk.leave(request)
