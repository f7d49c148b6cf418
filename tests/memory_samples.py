"""What the tests of the Memories panel share: a session with sixteen memories, and what a visitor
does there."""

from __future__ import annotations

from typing import Any

from latentmem.records import Problem
from latentmem.ui.map import handlers
from latentmem.ui.map.panel_state import Ask, Picture, atlas_of
from latentmem.ui.panels import memories
from latentmem.ui.session import AppSession

from .fake_engine import FakeEngine, fill_bank
from .ui_samples import LOOK, visitor

SHOPS = [
    f"{a} buys {n} {b} at ${n} each. How much change?"
    for n in (2, 3)
    for a in ("Ann", "Bo", "Cy", "Di")
    for b in ("pens", "cups")
]


def shop_session() -> AppSession:
    """Sixteen memories, enough for groups and every projection."""
    engine = FakeEngine()
    fill_bank(engine, [Problem(t, source=f"shops/{t.split()[3]}") for t in SHOPS])
    return AppSession(engine)


def asks(
    session: AppSession,
    look: tuple[str, ...] = LOOK,
    chosen: str = "",
    data: Any = None,
    who: Any = None,
) -> Ask:
    """What the page asks a handler of the panel with; `data`: of a custom event."""
    who = who or visitor()
    found = dict(data) if isinstance(data, dict) else {}
    visit = session.visit(who)
    return Ask(session, visit, *look, chosen=chosen, data=found, address=who.query_params)


def click(session: AppSession, data: Any, look: tuple[str, ...] = LOOK, who: Any = None) -> Picture:
    return handlers.clicked(asks(session, look, data=data, who=who))


def drawn(session: AppSession, look: tuple[str, ...]) -> list[Any]:
    """The lines of progress."""
    return list(handlers.draw(asks(session, look)))[1:]


def wanted(session: AppSession, look: tuple[str, ...] = LOOK) -> list[Picture]:
    """The three steps of a map, without the first one's progress."""
    drawn(session, look)
    return [step(asks(session, look)) for step in (handlers.want, handlers.explain)]


def placed(session: AppSession, text: str, look: tuple[str, ...] = LOOK) -> Picture:
    list(memories.locate(asks(session, look), text))
    return memories.located(asks(session, look))


def sent(part: Picture) -> set[str]:
    return set(part.parts())


def stamp_of(session: AppSession) -> str:
    return atlas_of(session).ready("input", "pca").stamp
