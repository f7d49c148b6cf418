"""The flow that panels share: what cannot be asked is refused, and a reload or a full queue loses
no work."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.settings import Settings
from latentmem.ui import session as visits
from latentmem.ui.app import Page
from latentmem.ui.panels import distil
from latentmem.ui.panels.distil import Distil, DistilView
from latentmem.ui.panels.solve import Solve, SolveView
from latentmem.ui.panels.stream import Stream, StreamChoice, StreamView
from latentmem.ui.session import AppSession, last_receipt
from tests.fake_engine import FakeEngine
from tests.ui_samples import (
    ANN,
    BO,
    BOTH,
    SETTINGS,
    SLOWLY,
    TOKEN,
    arrived,
    asked,
    distilled,
    held,
    pressed,
    settle,
    skipped,
    text_of,
    visitor,
)

# ---------- a press that is refused or never has its turn: the page before stays

CONTROLS = StreamChoice._fields[:5]
TRAINING = (4, 1e-3, 20, None, None)
LONG = "x" * 4001


def distil_pressed(
    session: AppSession, text: str = BO, who: Any = None, training: tuple = TRAINING
) -> tuple[DistilView, Any]:
    """(what a press of Distil shows at once, what the comparison under it becomes)."""
    shown = Distil(session).press(who or visitor(), text, *SETTINGS, *training)
    return shown, shown.columns


def solve_pressed(
    session: AppSession,
    text: str = BO,
    mode: str = "auto",
    memory: str | None = None,
    settings: tuple = SETTINGS,
) -> tuple[SolveView, Any, Any]:
    """The same of Solve, with what was said about the answer."""
    shown = Solve(session).press(visitor(), text, mode, memory, *settings)
    return shown, shown.columns, shown.noted


# ---------- distil
@pytest.mark.parametrize(
    ("text", "training", "words"),
    [
        ("  ", TRAINING, "The problem is empty"),
        (LONG, TRAINING, "4001 characters and the limit is 4000"),
        (BO, (0, 1e-3, 20, None, None), "steps"),
        (BO, (4, float("nan"), 20, None, None), "learning_rate"),
    ],
)
def test_a_refused_distillation_keeps_the_memory_that_waits(
    session: AppSession, text: str, training: tuple, words: str
) -> None:
    last, waits = distilled(session)[-1], session.visit(visitor()).pending
    shown, columns = distil_pressed(session, text, training=training)
    assert words in text_of(shown.status) and 'role="alert"' in text_of(shown.status)
    assert shown.choice["visible"]
    assert shown.after["visible"]
    assert shown.press_button["interactive"]
    assert not shown.stop_button["interactive"]
    assert (shown.outcome, shown.cards, shown.curve) == (
        last.outcome,
        last.cards,
        last.curve,
    ) and columns == gr.skip()
    assert session.visit(visitor()).pending is waits is not None
    assert next(Distil(session).begin(visitor())) == DistilView(), "it has no turn"
    kept = Distil(session).keep(visitor())
    assert "Kept." in text_of(kept.status)
    assert words not in text_of(kept.status)
    assert len(session.engine.bank) == 3


def test_no_room_for_a_memory_is_said_before_the_one_that_waits_is_gone() -> None:
    session = AppSession(FakeEngine(Settings(hosted=True, hosted_memories=1, rollouts=8, steps=4)))
    mine = session.at(visitor())
    (
        distilled(mine, ANN),
        Distil(mine).keep(visitor()),
        distilled(mine, BO),
    )  # the first fills the room
    assert mine.visit(visitor()).pending is None, "there was no room to begin with"
    mine.engine.bank.delete(mine.engine.bank.infos()[0].id)
    # and now the second, while it waits
    (distilled(mine, BO), mine.engine.bank.put(mine.visit(visitor()).pending.memory))
    shown, _ = distil_pressed(mine, ANN)
    assert "more than the 1" in text_of(shown.status) and shown.choice["visible"]
    assert mine.visit(visitor()).pending is not None


@pytest.mark.parametrize("way", ["the queue is full", "stopped", "nobody came back"])
def test_a_distillation_without_a_turn_keeps_the_memory_that_waits(
    session: AppSession, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    who = visitor("a")
    arrived(session, who, TOKEN)
    last = distilled(session, who=who)[-1]
    monkeypatch.setattr(visits, "ORPHAN", -1.0 if way == "nobody came back" else 60.0)
    shown, columns = distil_pressed(session, who=who)
    assert not shown.choice["visible"]
    assert columns == []
    assert "Waiting for the model" in text_of(shown.status)
    if way == "nobody came back":
        Page(session).leave(who)
        page = arrived(session, who := visitor("b"), TOKEN)
        assert page["distil_problem"] == ANN
        assert page["distil_outcome"] == last.outcome
        assert page["distil_choice"]["visible"]
    else:
        session.full = lambda _: True
        back = (
            Distil(session).refused(who)
            if way == "the queue is full"
            else Distil(session).stop(who)
        )
        assert (
            "queue is full" if way == "the queue is full" else "Stopped before it began"
        ) in text_of(back.status)
        assert back.outcome == last.outcome
        assert back.choice["visible"]
        assert not back.stop_button["interactive"]
    assert next(Distil(session).begin(who)) == DistilView()
    assert "Kept." in text_of(Distil(session).keep(who).status) and len(session.engine.bank) == 3


def test_the_memory_that_waits_goes_when_the_next_distillation_begins(session: AppSession) -> None:
    distilled(session)
    visit, stream = (
        session.visit(visitor()),
        pressed(Distil, session, visitor(), "A unanimous problem", *SETTINGS, *TRAINING),
    )
    assert visit.pending is not None
    assert (
        not next(stream).outcome and visit.pending is None and visit.runs["distil"].before is None
    ), "nothing piles up"
    list(stream)
    assert "no memory to keep" in text_of(Distil(session).keep(visitor()).status)


def test_what_waits_can_be_kept_while_the_next_press_waits(session: AppSession) -> None:
    distilled(session)
    distil_pressed(session)
    assert "Kept." in text_of(Distil(session).keep(visitor()).status)
    assert len(session.engine.bank) == 3
    run = session.visit(visitor()).runs["distil"]
    assert run.pressed and run.asked.problem == BO and run.scene.distilled is None, (
        "and the press is as it was"
    )


def test_a_refused_press_leaves_what_goes_on_under_it_and_its_stop(session: AppSession) -> None:
    asked(session), distilled(session)
    session.engine.pace = 0.005
    (
        Distil(session).compare.press(distil.SAME, visitor()),
        Solve(session).replay.press(visitor()),
    )
    trial, again = Distil(session).compare.begin(visitor()), Solve(session).replay.begin(visitor())
    next(trial)
    assert distil_pressed(session, " ")[0].stop_button["interactive"]
    assert solve_pressed(session, " ")[0].stop_button["interactive"]
    assert 'class="column"' in text_of(list(trial)[-1]) and "same tokens" in text_of(
        list(again)[-1]
    )
    assert not distil_pressed(session, " ")[0].stop_button["interactive"]
    assert not solve_pressed(session, " ")[0].stop_button["interactive"]


# ---------- solve
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
    session: AppSession, text: str, mode: str, memory: str | None, settings: tuple, words: str
) -> None:
    last = asked(session)[-1]
    Solve(session).compare.press(last.other["value"], visitor())
    columns = list(Solve(session).compare.begin(visitor()))[-1]
    shown, *beside = solve_pressed(session, text, mode, memory, settings)
    assert words in text_of(shown.status) and "alert" in text_of(shown.status)
    assert (shown.receipt, shown.cards, shown.votes) == (
        last.receipt,
        last.cards,
        last.votes,
    ) and shown.after["visible"]
    assert shown.press_button["interactive"] and not shown.stop_button["interactive"]
    assert [shown.other, *beside] == [gr.skip()] * 3, "what was compared and said stays, too"
    assert last_receipt(session.visit(visitor())).problem.text == ANN
    page = arrived(session, visitor())
    assert page["problem"] == ANN
    assert page["columns"] == columns
    assert "alert" not in text_of(page["status"])


def test_a_refused_question_does_not_end_the_one_that_is_answered(session: AppSession) -> None:
    session.engine.pace = 0.005
    stream = pressed(Solve, session, visitor(), SLOWLY, "auto", None, *SETTINGS)
    next(stream), next(stream)
    shown, *_ = solve_pressed(session, " ")
    assert "The problem is empty" in text_of(shown.status)
    assert shown.stop_button["interactive"]
    assert not shown.press_button["interactive"]
    assert session.visit(visitor()).busy("solve") and "The problem is empty" in text_of(
        next(stream).status
    ), "it can be read"
    assert "The problem is empty" not in text_of(Solve(session).stop(visitor()).status)
    settle(session)


def test_an_answer_that_was_left_by_a_link_does_not_come_back_under_the_problem_of_the_link(
    session: AppSession,
) -> None:
    asked(session)
    arrived(session, visitor(problem=BO))
    shown, *_ = solve_pressed(session, BO, "chosen")
    assert "Choose a memory first" in text_of(shown.status)
    assert not shown.receipt
    assert not shown.after["visible"]
    solve_pressed(session, BO)
    assert not Solve(session).stop(visitor()).receipt, "nor when the press is stopped in the queue"
    asked(session)
    arrived(session, visitor(problem=BO)), arrived(session, visitor(problem=ANN))
    assert solve_pressed(session, " ")[0].receipt, (
        "but it is there again when the visitor walks back"
    )


@pytest.mark.parametrize("way", ["the queue is full", "stopped"])
def test_a_question_without_a_turn_leaves_the_last_answer(session: AppSession, way: str) -> None:
    last = asked(session)[-1]
    Solve(session).compare.press(last.other["value"], visitor())
    columns = list(Solve(session).compare.begin(visitor()))[-1]
    for _ in range(2):  # pressed twice: still the answer before
        waits, *_ = solve_pressed(session)
    assert not waits.receipt and arrived(session, visitor())["columns"] == []
    session.full = lambda _: True
    back = (
        Solve(session).refused(visitor())
        if way == "the queue is full"
        else Solve(session).stop(visitor())
    )
    assert (
        "queue is full" if way == "the queue is full" else "Stopped before it began"
    ) in text_of(back.status)
    assert (back.receipt, back.cards) == (last.receipt, last.cards)
    assert back.after["visible"]
    assert back.other == gr.skip()
    assert arrived(session, visitor())["columns"] == columns
    asked(session, BO)
    assert session.visit(visitor()).columns == [], "they belong to the answer before"


# ---------- a page is reloaded: runs go on, choices are there again, no press is lost

FIRST, AGAIN = visitor("first"), visitor("again")
CHOSEN = ("change", None, BOTH, 6, 3)


@pytest.fixture
def visited(tmp_path: Path) -> AppSession:
    visited = AppSession(
        FakeEngine(Settings(rollouts=8, steps=4, bank=tmp_path / "home" / "bank.sqlite"))
    )  # type: ignore[arg-type]
    arrived(visited, FIRST, TOKEN)
    return visited


def going(visited: AppSession, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A stream whose fourth problem waits for the event; its page is gone."""
    reached, go = held(monkeypatch, after=3)
    pictures = pressed(Stream, visited, FIRST, *CHOSEN)
    next(pictures), next(pictures)
    assert reached.wait(20)
    pictures.close()
    Page(visited).leave(FIRST)
    return go


# ---------- a stream
def test_a_stream_goes_on_while_its_page_is_reloaded(
    visited: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = going(visited, monkeypatch)
    page = arrived(visited, AGAIN, TOKEN)
    assert page["guide"] == {"again": ["stream_goes_on"]}
    assert tuple(page[f"stream_{name}"] for name in CONTROLS) == CHOSEN
    assert page["stream_stop_button"]["interactive"]
    assert not page["stream_press_button"]["interactive"]
    assert page["stream_curve"]["data"][1]["x"] == [1, 2, 3] and len(page["stream_recent"]) == 4
    assert "replies" in text_of(page["stream_status"]) and "Latent memories" in text_of(
        page["stream_table"]
    )
    go.set()
    last = list(Stream(visited).resume(AGAIN))[-1]
    assert "Done: 6 problems answered." in text_of(last.status) and last.download["value"]
    (late,) = Stream(visited).resume(AGAIN)
    assert late.press_button["interactive"] and not late.stop_button["interactive"], (
        "it ended while the page was loading"
    )


def test_stop_after_a_reload_stops_it(visited: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    go = going(visited, monkeypatch)
    arrived(visited, AGAIN, TOKEN)
    stopped = Stream(visited).stop(AGAIN)
    assert "Stopped after 3 problems of 6. Press Go on" in text_of(stopped.status)
    assert stopped.press_button["value"] == "Go on"
    go.set()
    settle(visited, AGAIN)
    assert len(visited.visit(AGAIN).runs["stream"].scene.results) < 12  # type: ignore[attr-defined]
    Page(visited).leave(AGAIN)
    page = arrived(visited, visitor("third"), TOKEN)
    assert skipped(page["guide"]) and "Press Go on" in text_of(page["stream_status"])
    assert page["stream_press_button"]["value"] == "Go on" and page["stream_again"]["visible"]
    assert len(page["stream_recent"]) == 4 and Path(page["stream_download"]["value"]).is_file()


def test_a_stream_that_nobody_comes_back_to_is_stopped_and_can_go_on(
    visited: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "ORPHAN", 0.05)
    go = going(visited, monkeypatch)
    time.sleep(0.1)
    go.set()
    visited.visits._parked[TOKEN].runs["stream"].thread.join(20)  # type: ignore[union-attr]
    page = arrived(visited, AGAIN, TOKEN)
    assert skipped(page["guide"]) and "Stopped after" in text_of(page["stream_status"])
    assert "Done" in text_of(list(pressed(Stream, visited, AGAIN, *CHOSEN))[-1].status)


def test_a_finished_stream_is_there_after_a_reload_and_for_nobody_else(
    visited: AppSession, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "What is 4 + 1?", "answer": "5"}\n')
    last = list(pressed(Stream, visited, FIRST, "change", str(file), ["elm"], 8, 0))[-1]
    settle(visited, FIRST)
    Page(visited).leave(FIRST)
    page = arrived(visited, AGAIN, TOKEN)
    assert page["stream_file"] == str(file) and page["stream_systems"] == ["elm"]
    assert page["stream_curve"] == last.curve
    assert page["stream_table"] == last.table
    assert page["stream_recent"] == last.recent
    assert (
        Path(page["stream_download"]["value"]).read_text()
        == Path(last.download["value"]).read_text()
    )
    file.unlink()
    Page(visited).leave(AGAIN)
    assert arrived(visited, AGAIN, TOKEN)["stream_file"] is None, (
        "an upload that is gone is not shown"
    )
    page = arrived(visited, visitor("stranger"), TOKEN[::-1])
    assert all(skipped(page[f"stream_{name}"]) for name in (*CONTROLS, *StreamView._fields))


# ---------- a link to another problem
@pytest.mark.parametrize("state", ["going", "waiting"])
def test_a_link_to_another_problem_ends_the_answer_that_has_no_place_there(
    visited: AppSession, state: str
) -> None:
    """Else its traces and receipt would fill the page under the problem of the link."""
    visited.engine.pace = 0.01
    Solve(visited).press(FIRST, f"{ANN} Count slowly.", "off", None, *SETTINGS)
    pictures, run = Solve(visited).begin(FIRST), visited.visit(FIRST).runs["solve"]
    if state == "going":
        next(pictures), next(pictures)
    Page(visited).leave(FIRST)
    page = arrived(visited, linked := visitor("again", problem=BO), TOKEN)
    assert page["problem"] == BO and skipped(page["guide"]) and skipped(page["status"])
    settle(visited, linked)
    assert not run.busy and not run.pressed and run.scene.receipt is None
    assert all(map(skipped, next(Solve(visited).begin(linked)))), (
        "its turn in the queue is nobody's"
    )
    last = list(pressed(Solve, visited, linked, BO, "off", None, *SETTINGS))[-1]
    assert "Receipt" in text_of(last.receipt)


@pytest.mark.parametrize(
    "address", [{}, {"problem": ANN}, {"problem": f" {ANN}\n"}, {"problem": " "}]
)
def test_a_reload_with_its_own_problem_in_the_address_goes_on(
    visited: AppSession, address: dict[str, str]
) -> None:
    visited.engine.pace = 0.01
    pictures = pressed(Solve, visited, FIRST, ANN, "off", None, *SETTINGS)
    next(pictures), next(pictures)
    Page(visited).leave(FIRST)
    page = arrived(visited, visitor("again", **address), TOKEN)
    assert page["guide"] == {"again": ["solve_goes_on"]}
    assert page["problem"] == ANN
    assert page["stop_button"]["interactive"]
    assert "Receipt" in text_of(list(Solve(visited).resume(AGAIN))[-1].receipt)


def test_a_link_leaves_the_other_panels_and_an_answer_that_is_there(visited: AppSession) -> None:
    list(pressed(Solve, visited, FIRST, ANN, "off", None, *SETTINGS))
    visited.engine.pace = 0.005
    pictures = pressed(Distil, visited, FIRST, f"{ANN} Count slowly.", *SETTINGS, *TRAINING)
    next(pictures), next(pictures)
    Page(visited).leave(FIRST)
    page = arrived(visited, linked := visitor("linked", problem=BO), TOKEN)
    assert page["guide"] == {"again": ["distil_goes_on"]}
    assert page["problem"] == BO
    assert skipped(page["receipt"])
    Distil(visited).stop(linked), settle(visited, linked)
    Page(visited).leave(linked)
    page = arrived(visited, visitor("back", problem=ANN), TOKEN)
    assert "Receipt" in text_of(page["receipt"]) and page["after"]["visible"]


# ---------- a press whose page went before its turn came
def pressed_solve(visited: AppSession) -> None:
    shown = Solve(visited).press(FIRST, BO, "off", None, *SETTINGS[:4], 7, *SETTINGS[5:])
    assert "Waiting for the model" in text_of(shown[0])


def pressed_distil(visited: AppSession) -> None:
    shown = Distil(visited).take_over(FIRST, ANN, *SETTINGS, *TRAINING)
    assert shown[1] == ANN and "Waiting for the model" in text_of(shown[2])


def pressed_stream(visited: AppSession) -> None:
    assert "Waiting for the model" in text_of(Stream(visited).press(FIRST, *CHOSEN).status)


PRESSES = {
    "solve": (pressed_solve, Solve, "", {"problem": BO, "mode": "off", "seed": 7}, ""),
    "distil": (pressed_distil, Distil, "distil_", {"distil_problem": ANN}, ""),
    "stream": (
        pressed_stream,
        Stream,
        "stream_",
        {"stream_size": 6, "stream_seed": 3},
        "Done: 6 problems answered.",
    ),
}


@pytest.mark.parametrize("name", PRESSES)
def test_a_press_that_waits_in_the_queue_is_not_lost(visited: AppSession, name: str) -> None:
    press, panel, prefix, form, said = PRESSES[name]
    press(visited)
    Page(visited).leave(FIRST)
    page = arrived(visited, AGAIN, TOKEN)
    assert page["guide"] == {"again": [f"{name}_begins"]} and {k: page[k] for k in form} == form
    assert "Waiting for the model" in text_of(page[f"{prefix}status"])
    assert page[f"{prefix}stop_button"]["interactive"]
    assert all(map(skipped, next(iter(panel(visited).resume(AGAIN))))), (
        "there is nothing yet to go on with"
    )
    last = list(panel(visited).begin(AGAIN))[-1]
    assert said in text_of(last.status) and last.press_button["interactive"]
    assert all(map(skipped, next(iter(panel(visited).begin(AGAIN))))), "once only"
    page = arrived(visited, visitor("third"), TOKEN)
    assert skipped(page["guide"]) and page[f"{prefix}press_button"]["interactive"]


@pytest.mark.parametrize("name", PRESSES)
def test_a_press_that_was_stopped_in_the_queue_does_not_come_back(
    visited: AppSession, name: str
) -> None:
    press, panel, prefix, _, _ = PRESSES[name]
    press(visited)
    assert panel(visited).stop(FIRST).press_button["interactive"]
    Page(visited).leave(FIRST)
    page = arrived(visited, AGAIN, TOKEN)
    assert skipped(page["guide"]) and "Waiting" not in text_of(page[f"{prefix}status"])
    assert all(map(skipped, next(iter(panel(visited).begin(AGAIN)))))


@pytest.mark.parametrize("gone", ["noticed", "not noticed yet"])
def test_a_press_is_remembered_as_long_as_a_run(
    visited: AppSession, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(visits, "ORPHAN", 0.05)
    pressed_stream(visited)
    time.sleep(0.1)  # in the queue, with the page open: that may take as long as it likes
    assert visited.visit(FIRST).runs["stream"].pressed
    if gone == "noticed":
        Page(visited).leave(FIRST)
        time.sleep(0.1)
        assert skipped(arrived(visited, AGAIN, TOKEN)["guide"])
    else:
        assert arrived(visited, AGAIN, TOKEN)["guide"] == {"again": ["stream_begins"]}


def test_begin_again_is_remembered_as_such(visited: AppSession, replies: list[str]) -> None:
    list(pressed(Stream, visited, FIRST, *CHOSEN))
    settle(visited, FIRST)
    assert len(replies) == 12
    Stream(visited).press_anew(FIRST, *CHOSEN)
    Page(visited).leave(FIRST)
    arrived(visited, AGAIN, TOKEN)
    assert "Done" in text_of(list(Stream(visited).begin(AGAIN))[-1].status) and len(replies) == 24


def test_a_press_that_had_its_turn_is_no_press_any_more(visited: AppSession) -> None:
    pressed_solve(visited)
    pictures = Solve(visited).begin(FIRST)
    shown = [next(pictures), next(pictures)]  # on a busy machine the second is the last
    assert not visited.visit(FIRST).runs["solve"].pressed
    assert all(map(skipped, next(Solve(visited).begin(FIRST)))), (
        "the turn of a press before, which was stopped, finds it begun"
    )
    assert "Receipt" in text_of([*shown, *pictures][-1].receipt)


@pytest.mark.parametrize("name", PRESSES)
def test_what_was_stopped_does_not_draw_over_the_next_press(visited: AppSession, name: str) -> None:
    """Stop, and the same button again, before the first run's event has ended."""
    press, panel, _, _, said = PRESSES[name]
    press(visited)
    first = panel(visited).begin(FIRST)
    next(first)
    assert panel(visited).stop(FIRST).press_button["interactive"]
    press(visited)
    assert list(first) == []
    last = list(panel(visited).begin(FIRST))[-1]
    assert said in text_of(last.status) and last.press_button["interactive"]


@pytest.mark.parametrize("name", PRESSES)
def test_the_turn_of_a_press_that_was_stopped_goes_to_the_next_one(
    visited: AppSession, name: str
) -> None:
    """Pressed, stopped in the queue, pressed again: the queue may hold two turns or one."""
    press, panel, _, _, said = PRESSES[name]
    press(visited)
    panel(visited).stop(FIRST)
    press(visited)
    assert said in text_of(list(panel(visited).begin(FIRST))[-1].status)
    assert all(map(skipped, next(panel(visited).begin(FIRST))))
