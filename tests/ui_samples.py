"""What the tests of the app's handlers share: a bank of two memories, visitors, and a solved
problem."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from latentmem.engine.run_state import Scene
from latentmem.method.voting import vote
from latentmem.records import Delta, Problem, Step, Trace
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession

from .fake_engine import FakeEngine, fake_step, fill_bank

ANN, BO = "Ann has 3 cats and 4 dogs. How many pets?", "Bo has 5 cats and 6 dogs. How many pets?"
LOOK = ("", "source", "input", "pca")  # search words, colour, meaning of near, projection
SETTINGS = (8, 0.8, 1.0, 320, 0, "vote_share", "input", 0.25)


def visitor(name: str = "a", **query: str) -> Any:
    return SimpleNamespace(session_hash=name, query_params=query)


def new_desk() -> AppSession:
    engine = FakeEngine()
    fill_bank(
        engine,
        [Problem(BO, source="pets"), Problem("A train goes 40 km in an hour.", source="trains")],
    )
    return AppSession(engine)


def asked(
    desk: AppSession,
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
    return list(pressed(Solve, desk, who or visitor(), text, mode, memory, *values.values()))


def pressed(
    panel: Any, desk: AppSession, who: Any, *given: Any, again: bool = False
) -> Iterator[Any]:
    """The button of a panel is pressed, and has its turn in the queue. A press that was refused
    shows why, and has none."""
    one = panel(desk)
    shown = (one.press_anew if again else one.press)(who, *given)
    return one.begin(who) if desk.visit(who).busy(one.name) else iter([shown])


def settle(desk: AppSession, who: Any = None) -> None:
    """Waits until the threads of a visitor's runs have ended."""
    for run in desk.visit(who or visitor()).runs.values():
        if run.thread is not None:
            run.thread.join(20)
            assert not run.thread.is_alive()


def text_of(area: Any) -> str:
    return " ".join(html for _, html in area)


def distilled(desk: AppSession, text: str = ANN, who: Any = None) -> list:
    return list(pressed(Distil, desk, who or visitor(), text, *SETTINGS, 4, 1e-3, 20))


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
