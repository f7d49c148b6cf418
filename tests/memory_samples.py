"""What the tests of the Memories panel share: a desk with sixteen memories, and what a visitor does
there."""

from __future__ import annotations

from typing import Any

import gradio as gr

from latentmem.records import Problem
from latentmem.ui.map import handlers
from latentmem.ui.map.panel_state import atlas_of
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


def shop_desk() -> AppSession:
    """Sixteen memories, enough for groups and every projection."""
    engine = FakeEngine()
    fill_bank(engine, [Problem(t, source=f"shops/{t.split()[3]}") for t in SHOPS])
    return AppSession(engine)


def click(
    desk: AppSession, data: Any, look: tuple[str, ...] = LOOK, who: Any = None
) -> memories.Picture:
    return memories.clicked(desk, *look, gr.EventData(None, data), who or visitor())


def drawn(desk: AppSession, look: tuple[str, ...]) -> list[Any]:
    """The lines of progress."""
    return list(handlers.draw(desk, *look, "", visitor()))[1:]


def wanted(desk: AppSession, look: tuple[str, ...] = LOOK) -> list[memories.Picture]:
    """The three steps of a picture, without the first one's progress."""
    drawn(desk, look)
    return [step(desk, *look, "", visitor()) for step in (handlers.want, handlers.explain)]


def placed(desk: AppSession, text: str, look: tuple[str, ...] = LOOK) -> memories.Picture:
    list(memories.locate(desk, text, look[2], visitor()))
    return memories.located(desk, *look, "", visitor())


def sent(part: memories.Picture) -> set[str]:
    return {name for name, value in part._asdict().items() if value != gr.skip()}


def stamp_of(desk: AppSession) -> str:
    return atlas_of(desk).ready("input", "pca").stamp
