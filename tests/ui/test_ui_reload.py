"""A page is reloaded without a browser: a stream goes on, its choices are there again, and no press
of a button is lost."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from latentmem.settings import Settings
from latentmem.ui import session
from latentmem.ui.app import Page
from latentmem.ui.panels import stream
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.panels.stream import CONTROLS, Stream, StreamView
from latentmem.ui.session import AppSession
from tests.evaluation_samples import fake_cast
from tests.fake_engine import FakeEngine
from tests.ui.test_ui_page import TOKEN, arrived, skipped
from tests.ui.test_ui_stream import BOTH, asked, held  # noqa: F401 (asked is a fixture)
from tests.ui_samples import ANN, BO, SETTINGS, pressed, settle, text_of, visitor

FIRST, AGAIN = visitor("first"), visitor("again")
CHOSEN = ("change", None, BOTH, 6, 3)


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "enter_systems", fake_cast)


@pytest.fixture
def desk(tmp_path: Path) -> AppSession:
    desk = AppSession(
        FakeEngine(Settings(rollouts=8, steps=4, bank=tmp_path / "home" / "bank.sqlite"))
    )  # type: ignore[arg-type]
    arrived(desk, FIRST, TOKEN)
    return desk


def going(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A stream whose fourth problem waits for the event; its page is gone."""
    reached, go = held(monkeypatch, after=3)
    pictures = pressed(Stream, desk, FIRST, *CHOSEN)
    next(pictures), next(pictures)
    assert reached.wait(20)
    pictures.close()
    Page(desk).leave(FIRST)
    return go


# ------------------------------------------------------------------ a stream
def test_a_stream_goes_on_while_its_page_is_reloaded(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = going(desk, monkeypatch)
    page = arrived(desk, AGAIN, TOKEN)
    assert page["guide"] == {"again": ["stream_goes_on"]}
    assert tuple(page[f"stream_{name}"] for name in CONTROLS) == CHOSEN
    assert (
        page["stream_stop_button"]["interactive"] and not page["stream_press_button"]["interactive"]
    )
    assert page["stream_curve"]["data"][1]["x"] == [1, 2, 3] and len(page["stream_recent"]) == 4
    assert "replies" in text_of(page["stream_status"]) and "Latent memories" in text_of(
        page["stream_table"]
    )
    go.set()
    last = list(Stream(desk).resume(AGAIN))[-1]
    assert "Done: 6 problems met." in text_of(last.status) and last.download["value"]
    (late,) = Stream(desk).resume(AGAIN)
    assert late.press_button["interactive"] and not late.stop_button["interactive"], (
        "it ended while the page was loading"
    )


def test_stop_after_a_reload_stops_it(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    go = going(desk, monkeypatch)
    arrived(desk, AGAIN, TOKEN)
    stopped = Stream(desk).stop(AGAIN)
    assert (
        "Stopped after 3 problems of 6. Press Go on" in text_of(stopped.status)
        and stopped.press_button["value"] == "Go on"
    )
    go.set()
    settle(desk, AGAIN)
    assert len(desk.visit(AGAIN).runs["stream"].scene.results) < 12  # type: ignore[attr-defined]
    Page(desk).leave(AGAIN)
    page = arrived(desk, visitor("third"), TOKEN)
    assert skipped(page["guide"]) and "Press Go on" in text_of(page["stream_status"])
    assert page["stream_press_button"]["value"] == "Go on" and page["stream_again"]["visible"]
    assert len(page["stream_recent"]) == 4 and Path(page["stream_download"]["value"]).is_file()


def test_a_stream_that_nobody_comes_back_to_is_stopped_and_can_go_on(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "ORPHAN", 0.05)
    go = going(desk, monkeypatch)
    time.sleep(0.1)
    go.set()
    desk.visits._parked[TOKEN].runs["stream"].thread.join(20)  # type: ignore[union-attr]
    page = arrived(desk, AGAIN, TOKEN)
    assert skipped(page["guide"]) and "Stopped after" in text_of(page["stream_status"])
    assert "Done" in text_of(list(pressed(Stream, desk, AGAIN, *CHOSEN))[-1].status)


def test_a_finished_stream_is_there_after_a_reload_and_for_nobody_else(
    desk: AppSession, tmp_path: Path
) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "What is 4 + 1?", "answer": "5"}\n')
    last = list(pressed(Stream, desk, FIRST, "change", str(file), ["elm"], 8, 0))[-1]
    settle(desk, FIRST)
    Page(desk).leave(FIRST)
    page = arrived(desk, AGAIN, TOKEN)
    assert page["stream_file"] == str(file) and page["stream_systems"] == ["elm"]
    assert (
        page["stream_curve"] == last.curve
        and page["stream_table"] == last.table
        and page["stream_recent"] == last.recent
    )
    assert (
        Path(page["stream_download"]["value"]).read_text()
        == Path(last.download["value"]).read_text()
    )
    file.unlink()
    Page(desk).leave(AGAIN)
    assert arrived(desk, AGAIN, TOKEN)["stream_file"] is None, "an upload that is gone is not shown"
    page = arrived(desk, visitor("stranger"), TOKEN[::-1])
    assert all(skipped(page[f"stream_{name}"]) for name in (*CONTROLS, *StreamView._fields))


# ------------------------------------------------------------------ a link to another problem
@pytest.mark.parametrize("state", ["going", "waiting"])
def test_a_link_to_another_problem_ends_the_answer_that_has_no_place_there(
    desk: AppSession, state: str
) -> None:
    """Else its traces and receipt would fill the page under the problem of the link."""
    desk.engine.pace = 0.01
    Solve(desk).press(FIRST, f"{ANN} Count slowly.", "off", None, *SETTINGS)
    pictures, run = Solve(desk).begin(FIRST), desk.visit(FIRST).runs["solve"]
    if state == "going":
        next(pictures), next(pictures)
    Page(desk).leave(FIRST)
    page = arrived(desk, linked := visitor("again", problem=BO), TOKEN)
    assert page["problem"] == BO and skipped(page["guide"]) and skipped(page["status"])
    settle(desk, linked)
    assert not run.busy and not run.pressed and run.scene.receipt is None
    assert all(map(skipped, next(Solve(desk).begin(linked)))), "its turn in the queue is nobody's"
    assert "Done." in text_of(
        list(pressed(Solve, desk, linked, BO, "off", None, *SETTINGS))[-1].status
    )


@pytest.mark.parametrize(
    "address", [{}, {"problem": ANN}, {"problem": f" {ANN}\n"}, {"problem": " "}]
)
def test_a_reload_with_its_own_problem_in_the_address_goes_on(
    desk: AppSession, address: dict[str, str]
) -> None:
    desk.engine.pace = 0.01
    pictures = pressed(Solve, desk, FIRST, ANN, "off", None, *SETTINGS)
    next(pictures), next(pictures)
    Page(desk).leave(FIRST)
    page = arrived(desk, visitor("again", **address), TOKEN)
    assert (
        page["guide"] == {"again": ["solve_goes_on"]}
        and page["problem"] == ANN
        and page["stop_button"]["interactive"]
    )
    assert "Done." in text_of(list(Solve(desk).resume(AGAIN))[-1].status)


def test_a_link_leaves_the_other_panels_and_an_answer_that_is_there(desk: AppSession) -> None:
    list(pressed(Solve, desk, FIRST, ANN, "off", None, *SETTINGS))
    desk.engine.pace = 0.005
    pictures = pressed(Distil, desk, FIRST, f"{ANN} Count slowly.", *SETTINGS, 4, 1e-3, 20)
    next(pictures), next(pictures)
    Page(desk).leave(FIRST)
    page = arrived(desk, linked := visitor("linked", problem=BO), TOKEN)
    assert (
        page["guide"] == {"again": ["distil_goes_on"]}
        and page["problem"] == BO
        and skipped(page["receipt"])
    )
    Distil(desk).stop(linked), settle(desk, linked)
    Page(desk).leave(linked)
    page = arrived(desk, visitor("back", problem=ANN), TOKEN)
    assert "Receipt" in text_of(page["receipt"]) and page["after"]["visible"]


# ------------------------------------------------------------------ a press whose page went before its turn came
def pressed_solve(desk: AppSession) -> None:
    shown = Solve(desk).press(FIRST, BO, "off", None, *SETTINGS[:4], 7, *SETTINGS[5:])
    assert "Waiting for the model" in text_of(shown[0])


def pressed_distil(desk: AppSession) -> None:
    shown = Distil(desk).take_over(FIRST, ANN, *SETTINGS, 4, 1e-3, 20)
    assert shown[1] == ANN and "Waiting for the model" in text_of(shown[2])


def pressed_stream(desk: AppSession) -> None:
    assert "Waiting for the model" in text_of(Stream(desk).press(FIRST, *CHOSEN).status)


PRESSES = {
    "solve": (pressed_solve, Solve, "", {"problem": BO, "mode": "off", "seed": 7}, "Done."),
    "distil": (pressed_distil, Distil, "distil_", {"distil_problem": ANN}, ""),
    "stream": (
        pressed_stream,
        Stream,
        "stream_",
        {"stream_size": 6, "stream_seed": 3},
        "Done: 6 problems met.",
    ),
}


@pytest.mark.parametrize("name", PRESSES)
def test_a_press_that_waits_in_the_queue_is_not_lost(desk: AppSession, name: str) -> None:
    press, panel, prefix, form, said = PRESSES[name]
    press(desk)
    Page(desk).leave(FIRST)
    page = arrived(desk, AGAIN, TOKEN)
    assert page["guide"] == {"again": [f"{name}_begins"]} and {k: page[k] for k in form} == form
    assert (
        "Waiting for the model" in text_of(page[f"{prefix}status"])
        and page[f"{prefix}stop_button"]["interactive"]
    )
    assert all(map(skipped, next(iter(panel(desk).resume(AGAIN))))), (
        "there is nothing yet to go on with"
    )
    last = list(panel(desk).begin(AGAIN))[-1]
    assert said in text_of(last.status) and last.press_button["interactive"]
    assert all(map(skipped, next(iter(panel(desk).begin(AGAIN))))), "once only"
    page = arrived(desk, visitor("third"), TOKEN)
    assert skipped(page["guide"]) and page[f"{prefix}press_button"]["interactive"]


@pytest.mark.parametrize("name", PRESSES)
def test_a_press_that_was_stopped_in_the_queue_does_not_come_back(
    desk: AppSession, name: str
) -> None:
    press, panel, prefix, _, _ = PRESSES[name]
    press(desk)
    assert panel(desk).stop(FIRST).press_button["interactive"]
    Page(desk).leave(FIRST)
    page = arrived(desk, AGAIN, TOKEN)
    assert skipped(page["guide"]) and "Waiting" not in text_of(page[f"{prefix}status"])
    assert all(map(skipped, next(iter(panel(desk).begin(AGAIN)))))


@pytest.mark.parametrize("gone", ["noticed", "not noticed yet"])
def test_a_press_is_remembered_as_long_as_a_run(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch, gone: str
) -> None:
    monkeypatch.setattr(session, "ORPHAN", 0.05)
    pressed_stream(desk)
    time.sleep(0.1)  # in the queue, with the page open: that may take as long as it likes
    assert desk.visit(FIRST).runs["stream"].pressed
    if gone == "noticed":
        Page(desk).leave(FIRST)
        time.sleep(0.1)
        assert skipped(arrived(desk, AGAIN, TOKEN)["guide"])
    else:
        assert arrived(desk, AGAIN, TOKEN)["guide"] == {"again": ["stream_begins"]}


def test_begin_again_is_remembered_as_such(desk: AppSession, asked: list[str]) -> None:
    list(pressed(Stream, desk, FIRST, *CHOSEN))
    settle(desk, FIRST)
    assert len(asked) == 12
    Stream(desk).press_anew(FIRST, *CHOSEN)
    Page(desk).leave(FIRST)
    arrived(desk, AGAIN, TOKEN)
    assert "Done" in text_of(list(Stream(desk).begin(AGAIN))[-1].status) and len(asked) == 24


def test_a_press_that_had_its_turn_is_no_press_any_more(desk: AppSession) -> None:
    pressed_solve(desk)
    pictures = Solve(desk).begin(FIRST)
    shown = [next(pictures), next(pictures)]  # on a busy machine the second is the last
    assert not desk.visit(FIRST).runs["solve"].pressed
    assert all(map(skipped, next(Solve(desk).begin(FIRST)))), (
        "the turn of a press before, which was stopped, finds it begun"
    )
    assert "Done." in text_of([*shown, *pictures][-1].status)


@pytest.mark.parametrize("name", PRESSES)
def test_what_was_stopped_does_not_draw_over_the_next_press(desk: AppSession, name: str) -> None:
    """Stop, and the same button again, before the first run's event has ended."""
    press, panel, _, _, said = PRESSES[name]
    press(desk)
    first = panel(desk).begin(FIRST)
    next(first)
    assert panel(desk).stop(FIRST).press_button["interactive"]
    press(desk)
    assert list(first) == []
    last = list(panel(desk).begin(FIRST))[-1]
    assert said in text_of(last.status) and last.press_button["interactive"]


@pytest.mark.parametrize("name", PRESSES)
def test_the_turn_of_a_press_that_was_stopped_goes_to_the_next_one(
    desk: AppSession, name: str
) -> None:
    """Pressed, stopped in the queue, pressed again: the queue may hold two turns or one."""
    press, panel, _, _, said = PRESSES[name]
    press(desk)
    panel(desk).stop(FIRST)
    press(desk)
    assert said in text_of(list(panel(desk).begin(FIRST))[-1].status)
    assert all(map(skipped, next(panel(desk).begin(FIRST))))
