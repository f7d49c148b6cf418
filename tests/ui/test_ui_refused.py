"""A press that asks what cannot be done, or never has its turn in the queue: what was on the page
before is still there."""

from __future__ import annotations

from typing import Any

import gradio as gr
import pytest

from latentmem.settings import Settings
from latentmem.ui import session
from latentmem.ui.app import Page
from latentmem.ui.panels import distil
from latentmem.ui.panels.distil import Distil, DistilView
from latentmem.ui.panels.solve import Solve, SolveView
from latentmem.ui.session import AppSession, last_receipt
from tests.fake_engine import FakeEngine
from tests.ui.test_ui import SLOWLY
from tests.ui.test_ui_page import TOKEN, arrived
from tests.ui_samples import (
    ANN,
    BO,
    SETTINGS,
    asked,
    distilled,
    new_desk,
    pressed,
    settle,
    text_of,
    visitor,
)

TRAINING = (4, 1e-3, 20)
LONG = "x" * 4001


@pytest.fixture
def desk() -> AppSession:
    return new_desk()


def distil_pressed(
    desk: AppSession, text: str = BO, who: Any = None, training: tuple = TRAINING
) -> tuple[DistilView, Any]:
    """(what a press of Distil shows at once, what the comparison under it becomes)."""
    shown = Distil(desk).press(who or visitor(), text, *SETTINGS, *training)
    return shown, shown.columns


def solve_pressed(
    desk: AppSession,
    text: str = BO,
    mode: str = "auto",
    memory: str | None = None,
    settings: tuple = SETTINGS,
) -> tuple[SolveView, Any, Any]:
    """The same of Solve, with what was said about the answer."""
    shown = Solve(desk).press(visitor(), text, mode, memory, *settings)
    return shown, shown.columns, shown.noted


# ------------------------------------------------------------------ distil
@pytest.mark.parametrize(
    ("text", "training", "words"),
    [
        ("  ", TRAINING, "The problem is empty"),
        (LONG, TRAINING, "4001 characters and the limit is 4000"),
        (BO, (0, 1e-3, 20), "steps"),
        (BO, (4, float("nan"), 20), "learning_rate"),
    ],
)
def test_a_refused_distillation_keeps_the_memory_that_waits(
    desk: AppSession, text: str, training: tuple, words: str
) -> None:
    last, waits = distilled(desk)[-1], desk.visit(visitor()).pending
    shown, columns = distil_pressed(desk, text, training=training)
    assert words in text_of(shown.status) and 'role="alert"' in text_of(shown.status)
    assert (
        shown.choice["visible"]
        and shown.after["visible"]
        and shown.press_button["interactive"]
        and not shown.stop_button["interactive"]
    )
    assert (shown.outcome, shown.cards, shown.curve) == (
        last.outcome,
        last.cards,
        last.curve,
    ) and columns == gr.skip()
    assert desk.visit(visitor()).pending is waits is not None
    assert next(Distil(desk).begin(visitor())) == DistilView(), "it has no turn"
    kept = Distil(desk).keep(visitor())
    assert (
        "Kept." in text_of(kept.status)
        and words not in text_of(kept.status)
        and len(desk.engine.bank) == 3
    )


def test_no_room_for_a_memory_is_said_before_the_one_that_waits_is_gone() -> None:
    desk = AppSession(FakeEngine(Settings(hosted=True, hosted_memories=1, rollouts=8, steps=4)))
    mine = desk.at(visitor())
    (
        distilled(mine, ANN),
        Distil(mine).keep(visitor()),
        distilled(mine, BO),
    )  # the first fills the room
    assert mine.visit(visitor()).pending is None, "there was no room to begin with"
    mine.engine.bank.delete(mine.engine.bank.infos()[0].id)
    (
        distilled(mine, BO),
        mine.engine.bank.put(mine.visit(visitor()).pending.memory),
    )  # and now the second, while it waits
    shown, _ = distil_pressed(mine, ANN)
    assert "more than the 1" in text_of(shown.status) and shown.choice["visible"]
    assert mine.visit(visitor()).pending is not None


@pytest.mark.parametrize("way", ["the queue is full", "stopped", "nobody came back"])
def test_a_distillation_without_a_turn_keeps_the_memory_that_waits(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    who = visitor("a")
    arrived(desk, who, TOKEN)
    last = distilled(desk, who=who)[-1]
    monkeypatch.setattr(session, "ORPHAN", -1.0 if way == "nobody came back" else 60.0)
    shown, columns = distil_pressed(desk, who=who)
    assert (
        not shown.choice["visible"]
        and columns == []
        and "Waiting for the model" in text_of(shown.status)
    )
    if way == "nobody came back":
        Page(desk).leave(who)
        page = arrived(desk, who := visitor("b"), TOKEN)
        assert (
            page["distil_problem"] == ANN
            and page["distil_outcome"] == last.outcome
            and page["distil_choice"]["visible"]
        )
    else:
        desk.full = lambda: True
        back = Distil(desk).refused(who) if way == "the queue is full" else Distil(desk).stop(who)
        assert (
            "queue is full" if way == "the queue is full" else "Stopped before it began"
        ) in text_of(back.status)
        assert (
            back.outcome == last.outcome
            and back.choice["visible"]
            and not back.stop_button["interactive"]
        )
    assert next(Distil(desk).begin(who)) == DistilView()
    assert "Kept." in text_of(Distil(desk).keep(who).status) and len(desk.engine.bank) == 3


def test_the_memory_that_waits_goes_when_the_next_distillation_begins(desk: AppSession) -> None:
    distilled(desk)
    visit, stream = (
        desk.visit(visitor()),
        pressed(Distil, desk, visitor(), "A unanimous problem", *SETTINGS, *TRAINING),
    )
    assert visit.pending is not None
    assert (
        not next(stream).outcome and visit.pending is None and visit.runs["distil"].before is None
    ), "nothing piles up"
    list(stream)
    assert "no memory to keep" in text_of(Distil(desk).keep(visitor()).status)


def test_what_waits_can_be_kept_while_the_next_press_waits(desk: AppSession) -> None:
    distilled(desk)
    distil_pressed(desk)
    assert "Kept." in text_of(Distil(desk).keep(visitor()).status) and len(desk.engine.bank) == 3
    run = desk.visit(visitor()).runs["distil"]
    assert run.pressed and run.asked.problem == BO and run.scene.distilled is None, (
        "and the press is as it was"
    )


def test_a_refused_press_leaves_what_goes_on_under_it_and_its_stop(desk: AppSession) -> None:
    asked(desk), distilled(desk)
    desk.engine.pace = 0.005
    (
        Distil(desk).compare.press(distil.SAME, visitor()),
        Solve(desk).replay.press(visitor()),
    )
    trial, again = Distil(desk).compare.begin(visitor()), Solve(desk).replay.begin(visitor())
    next(trial)
    assert (
        distil_pressed(desk, " ")[0].stop_button["interactive"]
        and solve_pressed(desk, " ")[0].stop_button["interactive"]
    )
    assert 'class="column"' in text_of(list(trial)[-1]) and "same tokens" in text_of(
        list(again)[-1]
    )
    assert (
        not distil_pressed(desk, " ")[0].stop_button["interactive"]
        and not solve_pressed(desk, " ")[0].stop_button["interactive"]
    )


# ------------------------------------------------------------------ solve
@pytest.mark.parametrize(
    ("text", "mode", "memory", "settings", "words"),
    [
        ("", "auto", None, SETTINGS, "The problem is empty"),
        (LONG, "off", None, SETTINGS, "the limit is 4000"),
        (BO, "chosen", None, SETTINGS, "Choose a memory first"),
        (BO, "chosen", "m000nothere", SETTINGS, "m000nothere"),
        (BO, "auto", None, (0, *SETTINGS[1:]), "rollouts"),
    ],
)
def test_a_refused_question_leaves_the_last_answer(
    desk: AppSession, text: str, mode: str, memory: str | None, settings: tuple, words: str
) -> None:
    last = asked(desk)[-1]
    Solve(desk).compare.press(last.other["value"], visitor())
    columns = list(Solve(desk).compare.begin(visitor()))[-1]
    shown, *beside = solve_pressed(desk, text, mode, memory, settings)
    assert words in text_of(shown.status) and "alert" in text_of(shown.status)
    assert (shown.receipt, shown.cards, shown.votes) == (
        last.receipt,
        last.cards,
        last.votes,
    ) and shown.after["visible"]
    assert shown.press_button["interactive"] and not shown.stop_button["interactive"]
    assert [shown.other, *beside] == [gr.skip()] * 3, "what was compared and said stays, too"
    assert last_receipt(desk.visit(visitor())).problem.text == ANN
    page = arrived(desk, visitor())
    assert (
        page["problem"] == ANN
        and page["columns"] == columns
        and "alert" not in text_of(page["status"])
    )


def test_a_refused_question_does_not_end_the_one_that_is_answered(desk: AppSession) -> None:
    desk.engine.pace = 0.005
    stream = pressed(Solve, desk, visitor(), SLOWLY, "auto", None, *SETTINGS)
    next(stream), next(stream)
    shown, *_ = solve_pressed(desk, " ")
    assert (
        "The problem is empty" in text_of(shown.status)
        and shown.stop_button["interactive"]
        and not shown.press_button["interactive"]
    )
    assert desk.visit(visitor()).busy("solve") and "The problem is empty" in text_of(
        next(stream).status
    ), "it can be read"
    assert "The problem is empty" not in text_of(Solve(desk).stop(visitor()).status)
    settle(desk)


def test_an_answer_that_was_left_by_a_link_does_not_come_back_under_the_problem_of_the_link(
    desk: AppSession,
) -> None:
    asked(desk)
    arrived(desk, visitor(problem=BO))
    shown, *_ = solve_pressed(desk, BO, "chosen")
    assert (
        "Choose a memory first" in text_of(shown.status)
        and not shown.receipt
        and not shown.after["visible"]
    )
    solve_pressed(desk, BO)
    assert not Solve(desk).stop(visitor()).receipt, "nor when the press is stopped in the queue"
    asked(desk)
    arrived(desk, visitor(problem=BO)), arrived(desk, visitor(problem=ANN))
    assert solve_pressed(desk, " ")[0].receipt, "but it is there again when the visitor walks back"


@pytest.mark.parametrize("way", ["the queue is full", "stopped"])
def test_a_question_without_a_turn_leaves_the_last_answer(desk: AppSession, way: str) -> None:
    last = asked(desk)[-1]
    Solve(desk).compare.press(last.other["value"], visitor())
    columns = list(Solve(desk).compare.begin(visitor()))[-1]
    for _ in range(2):  # pressed twice: still the answer before
        waits, *_ = solve_pressed(desk)
    assert not waits.receipt and arrived(desk, visitor())["columns"] == []
    desk.full = lambda: True
    back = (
        Solve(desk).refused(visitor())
        if way == "the queue is full"
        else Solve(desk).stop(visitor())
    )
    assert (
        "queue is full" if way == "the queue is full" else "Stopped before it began"
    ) in text_of(back.status)
    assert (
        (back.receipt, back.cards) == (last.receipt, last.cards)
        and back.after["visible"]
        and back.other == gr.skip()
    )
    assert arrived(desk, visitor())["columns"] == columns
    asked(desk, BO)
    assert desk.visit(visitor()).columns == [], "they belong to the answer before"
