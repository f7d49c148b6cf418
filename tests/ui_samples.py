"""What the tests of the app's handlers share: a bank of two memories, visitors, and a solved
problem."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from latentmem.engine.run_state import Scene
from latentmem.method.voting import vote
from latentmem.records import Delta, Problem, Step, Trace
from latentmem.ui import components, runs
from latentmem.ui import session as visits
from latentmem.ui.app import Page
from latentmem.ui.map.panel_state import Ask
from latentmem.ui.panels import memories
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.panels.stream import Stream, StreamView
from latentmem.ui.session import AppSession

from .evaluation_samples import FakeSystem
from .fake_engine import FakeEngine, fake_step, fill_bank

ANN, BO = "Ann has 3 cats and 4 dogs. How many pets?", "Bo has 5 cats and 6 dogs. How many pets?"
LOOK = ("", "source", "input", "pca")  # search words, colour, meaning of near, projection
SETTINGS = (8, 0.8, 1.0, 320, 0, "vote_share", "input", 0.25)
TOKEN = "0123456789abcdef0123"  # of a browser tab
SLOWLY = (
    f"{ANN} Count slowly."  # the engine takes seconds over it: it does not end before it is stopped
)
BOTH = ["zero_shot", "elm"]  # two systems of a stream


def visitor(name: str = "a", **query: str) -> Any:
    return SimpleNamespace(session_hash=name, query_params=query)


def new_session() -> AppSession:
    engine = FakeEngine()
    fill_bank(
        engine,
        [Problem(BO, source="pets"), Problem("A train goes 40 km in an hour.", source="trains")],
    )
    return AppSession(engine)


def asked(
    session: AppSession,
    text: str = ANN,
    mode: str = "auto",
    memory: str | None = None,
    who: Any = None,
    **changes: Any,
) -> list:
    names = (
        "rollouts",
        "temperature",
        "top_p",
        "max_new_tokens",
        "seed",
        "verifier",
        "key",
        "min_similarity",
    )
    values = dict(zip(names, SETTINGS, strict=True)) | changes
    return list(pressed(Solve, session, who or visitor(), text, mode, memory, *values.values()))


def pressed(
    panel: Any, session: AppSession, who: Any, *given: Any, again: bool = False
) -> Iterator[Any]:
    """The button of a panel is pressed, and has its turn in the queue. A press that was refused
    shows why, and has none."""
    one = panel(session)
    shown = (one.press_anew if again else one.press)(who, *given)
    return one.begin(who) if session.visit(who).busy(one.name) else iter([shown])


def settle(session: AppSession, who: Any = None) -> None:
    """Waits until the threads of a visitor's runs have ended."""
    for run in session.visit(who or visitor()).runs.values():
        if run.thread is not None:
            run.thread.join(20)
            assert not run.thread.is_alive()


def text_of(area: Any) -> str:
    return " ".join(html for _, html in area)


def distilled(session: AppSession, text: str = ANN, who: Any = None) -> list:
    return list(
        pressed(Distil, session, who or visitor(), text, *SETTINGS, 4, 1e-3, 20, None, None)
    )


def trace(
    row: int,
    answer: str | None,
    *,
    text: str = "thinking",
    finished: bool = True,
    side: str = "zero_shot",
) -> Trace:
    return Trace(row, text, answer, finished, 100, side, (1, 2), 7.5, 0.5, 3.0)


def scene(*traces: Trace, total: int = 4) -> Scene:
    s, done = Scene(), []
    for t in traces:
        s.add(Delta(t.row, t.text, t.side))
        s.add(t)
        done.append(t)
        s.add(vote([d for d in done if d.side == t.side], total, t.side))
    return s


def steps(n: int, of: int = 5) -> list[Step]:
    return [fake_step(i, of, vote([trace(0, "7")]), "p") for i in range(1, n + 1)]


def arrived(session: AppSession, who: Any, token: str = "") -> dict[str, Any]:
    """What the two steps of a page load show, by name; nothing (`gr.skip()`) for the others."""

    def plain(name: str) -> str:
        panel, _, own = name.rpartition(".")
        alone = own in components.TRAINING and own != "seed"
        return own if panel in ("", "solve") or alone else f"{panel}_{own}"

    shown = {plain(name): value for name, value in Page(session).arrived(token, who).items()}
    mine = Ask(session, session.visit(who), address=who.query_params)
    shown |= {f"map_{k}": v for k, v in memories.show_map(mine)._asdict().items()}
    return defaultdict(gr.skip, shown)


def skipped(value: Any) -> bool:
    return value == gr.skip()


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture every hundredth of a second, so that a quick engine is seen at its steps, too."""
    monkeypatch.setattr(visits, "LOOK", 0.005)
    monkeypatch.setattr(runs, "REFRESH", 0.01)


def tried(session: AppSession, on: str, who: Any = None) -> Iterator[Any]:
    """Before and after is pressed, and has its turn in the queue."""
    Distil(session).compare.press(on, who or visitor())
    return Distil(session).compare.begin(who or visitor())


def streamed(
    session: AppSession,
    chosen: str = "change",
    file: Path | None = None,
    systems: Any = BOTH,
    size: float = 6,
    seed: float = 0,
    who: Any = None,
    again: bool = False,
) -> list[StreamView]:
    who = who or visitor()
    pictures = list(
        pressed(
            Stream,
            session,
            who,
            chosen,
            str(file) if file else None,
            systems,
            size,
            seed,
            again=again,
        )
    )
    settle(session, who)
    return pictures


def held(monkeypatch: pytest.MonkeyPatch, after: int) -> tuple[threading.Event, threading.Event]:
    """(reached, go): elm's reply to the problem after `after` waits for `go`."""
    reached, go, old, count = threading.Event(), threading.Event(), FakeSystem.reply, [0]

    def reply(self, those, mode):
        count[0] += self.name == "elm"
        if self.name == "elm" and count[0] == after + 1:
            reached.set()
            go.wait(20)
        yield from old(self, those, mode)

    monkeypatch.setattr(FakeSystem, "reply", reply)
    return reached, go
