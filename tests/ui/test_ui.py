"""The handlers of Solve and Distil without a browser, against an engine without a model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from latentmem.records import Delta, LatentmemError
from latentmem.settings import Settings
from latentmem.ui import runs, session
from latentmem.ui import session as warming
from latentmem.ui.app import Page
from latentmem.ui.panels import distil
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve, SolveView
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
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

SLOWLY = (
    f"{ANN} Count slowly."  # the engine takes seconds over it: it does not end before it is stopped
)


@pytest.fixture
def desk() -> AppSession:
    return new_desk()


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture every hundredth of a second, so that a quick engine is seen at its steps, too."""
    monkeypatch.setattr(warming, "LOOK", 0.005)
    monkeypatch.setattr(runs, "REFRESH", 0.01)


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def tried(desk: AppSession, on: str, who: Any = None) -> Iterator[Any]:
    """Before and after is pressed, and has its turn in the queue."""
    Distil(desk).compare.press(on, who or visitor())
    return Distil(desk).compare.begin(who or visitor())


# ------------------------------------------------------------------ solve
def test_solving_streams_and_ends_with_the_receipt(desk: AppSession) -> None:
    pictures = asked(desk)
    first, last = pictures[0], pictures[-1]
    assert (
        first.press_button["interactive"] is False
        and first.stop_button["interactive"] is True
        and not first.receipt
    )
    assert (
        "Receipt" in text_of(last.receipt)
        and last.press_button["interactive"] is True
        and last.stop_button["interactive"] is False
    )
    assert last.after["visible"] and last.feedback["visible"]
    assert len(last.cards) == 16 + 2 and len(last.votes) == 2
    assert "Bo has 5 cats" in text_of(last.receipt)
    json.dumps([p._asdict() for p in pictures])


@pytest.mark.parametrize(
    ("mode", "words"),
    [("off", "Answered without a memory"), ("auto", "Bo has 5 cats"), ("chosen", "A train goes")],
)
def test_the_choice_of_memory(desk: AppSession, mode: str, words: str) -> None:
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    assert words in text_of(asked(desk, mode=mode, memory=train)[-1].receipt)


def test_this_one_without_a_memory_is_refused(desk: AppSession) -> None:
    shown = Solve(desk).press(visitor(), ANN, "chosen", None, *SETTINGS)
    assert (
        "Choose a memory first" in text_of(shown.status)
        and shown.press_button["interactive"]
        and not shown.stop_button["interactive"]
    )
    assert next(Solve(desk).begin(visitor())) == SolveView(), "it has no turn"
    assert desk.engine.shared["closed"] == 0


def test_what_is_looked_up_is_said_as_it_is(desk: AppSession) -> None:
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    said = {}
    for mode in ("off", "auto", "chosen"):
        panel, visit = Solve(desk), desk.visit(visitor())
        run = panel.new_run(visit, panel.asked(ANN, mode, train, *SETTINGS[:-1], 0.9))
        for record in desk.engine.answer(desk.problem(ANN), train if mode == "chosen" else mode):
            run.scene.add(record)
            if run.scene.retrieval is not None:
                break
        said[mode] = dict(panel.draw(desk, visit, run, True).status)["hits"]
    assert (
        "Memories are off" in said["off"]
        and "Nearest memory" in said["auto"]
        and "too far" in said["auto"]
    )
    assert (
        "Chosen by you" in said["chosen"]
        and "too far" not in said["chosen"]
        and train in said["chosen"]
    )
    receipt = text_of(asked(desk, mode="chosen", memory=train)[-1].receipt)
    assert "by you" in receipt and "looked up" not in receipt and "Lead over" not in receipt


@pytest.mark.parametrize("panel", [Solve, Distil])
def test_an_over_long_problem_is_refused_and_not_cut(panel: Any) -> None:
    desk, more = (
        AppSession(FakeEngine(Settings(hosted=True, hosted_chars=200))),
        (4, 1e-3, 20) if panel is Distil else (),
    )
    given = ("auto", None, *SETTINGS) if panel is Solve else (*SETTINGS, *more)
    last = list(pressed(panel, desk, visitor(), "x" * 201, *given))[-1]
    assert (
        "201 characters and the limit is 200" in text_of(last.status)
        and desk.engine.shared["closed"] == 0
    )


@pytest.mark.parametrize(
    ("text", "changes", "words"),
    [
        ("   ", {}, "The problem is empty"),
        (ANN, {"rollouts": 0}, "rollouts"),
        (ANN, {"temperature": float("nan")}, "temperature"),
        (ANN, {"memory": "m000nothere", "mode": "chosen"}, "m000nothere"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence(
    desk: AppSession, text: str, changes: dict, words: str
) -> None:
    last = asked(desk, text, **changes)[-1]
    assert words in text_of(last.status) and 'role="alert"' in text_of(last.status)
    assert last.press_button["interactive"] is True and not last.receipt


def test_a_bug_shows_no_traceback(desk: AppSession) -> None:
    desk.engine.shared["fail"] = RuntimeError("secret /path")
    last = asked(desk)[-1]
    assert "secret" not in text_of(last.status) and "server&#39;s log" in text_of(last.status)
    assert desk.engine.shared["open"] == 0


def test_the_model_is_loaded_first_with_progress(quick_pictures: None) -> None:
    desk = AppSession(FakeEngine(ready=False, pace=0.003))
    assert any("Downloading the model" in text_of(p.status) for p in asked(desk))
    assert desk.engine.ready


def test_stop_ends_the_engine_and_keeps_what_was_seen(desk: AppSession) -> None:
    desk.engine.pace = 0.005
    stream = pressed(Solve, desk, visitor(), SLOWLY, "auto", None, *SETTINGS)
    for _ in range(3):
        next(stream)
    stopped = Solve(desk).stop(visitor())
    assert "Stopped" in text_of(stopped.status) and stopped.press_button["interactive"] is True
    last = list(stream)[-1]
    assert "Stopped" in text_of(last.status) and not last.receipt and last.cards
    settle(desk)
    assert desk.engine.shared["open"] == 0
    assert "writing…" not in text_of(last.cards)


def test_closing_the_stream_closes_the_engine(desk: AppSession) -> None:
    stream = pressed(Solve, desk, visitor(), SLOWLY, "auto", None, *SETTINGS)
    desk.engine.pace = 0.005
    for _ in range(3):
        next(stream)
    assert desk.engine.shared["open"] == 1
    stream.close()
    settle(desk)
    assert desk.engine.shared["open"] == 0


def test_a_visitor_who_leaves_stops_their_run(desk: AppSession) -> None:
    stream = pressed(Solve, desk, visitor("gone"), ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    run = desk.visit(visitor("gone")).runs["solve"]
    Page(desk).leave(visitor("gone"))
    list(stream)
    run.thread.join(20)
    assert desk.engine.shared["open"] == 0 and "gone" not in desk.visits and len(desk.visits) == 0


def test_at_most_eight_pictures_a_second() -> None:
    def records() -> Any:
        for i in range(300):
            time.sleep(0.001)
            yield Delta(0, str(i))

    run, began = session.Run(), time.monotonic()
    drawn = sum(1 for _ in session.follow(records(), run))
    assert drawn <= (time.monotonic() - began) / runs.REFRESH + 1
    assert run.scene.rows["zero_shot", 0].text.endswith("299")


# ------------------------------------------------------------------ distil
def test_distil_try_keep_and_try_again(desk: AppSession, quick_pictures: None) -> None:
    desk.engine.pace = 0.001
    pictures = distilled(desk)
    desk.engine.pace = 0
    last = pictures[-1]
    assert any("Step 2 of 4" in text_of(p.status) for p in pictures) and any(
        p.curve["data"] for p in pictures[:-1]
    )
    assert last.choice["visible"] and last.after["visible"] and len(desk.engine.bank) == 2
    assert "not yet kept" in text_of(last.outcome) and [
        len(d["x"]) for d in last.curve["data"]
    ] == [5, 5, 5]
    events = len(desk.engine.bank.events())
    assert text_of(list(tried(desk, distil.SAME))[-1]).count('class="column"') == 2
    assert len(desk.engine.bank) == 2 and len(desk.engine.bank.events()) == events, (
        "a trial leaves nothing behind"
    )
    kept = Distil(desk).keep(visitor())
    assert len(desk.engine.bank) == 3 and kept.after["visible"] and not kept.choice["visible"]
    assert "See it on the map" in text_of(kept.outcome)
    assert "no memory to keep" in text_of(Distil(desk).keep(visitor()).status)
    assert text_of(list(tried(desk, BO))[-1]).count('class="column"') == 2
    assert text_of(list(tried(desk, distil.ALL))[-1]).count('class="column"') == 6
    assert "Distil a memory first" in text_of(list(tried(desk, distil.SAME, visitor("new")))[-1])
    json.dumps([p._asdict() for p in pictures])


def test_the_nearest_examples_are_offered_first(desk: AppSession) -> None:
    text = next(t for t, p in desk.examples.items() if session.family(p) == "change")
    offered = distilled(desk, text)[-1].on["choices"]
    assert (
        offered[:2] == [distil.ALL, distil.SAME]
        and len(offered) == len(desk.examples) + 2
        and text not in offered[2:7]
    )
    assert sum(session.family(desk.examples[t]) == "change" for t in offered[2:7]) >= 3


def test_discard_and_nothing_learnt_store_nothing(desk: AppSession) -> None:
    distilled(desk)
    gone = Distil(desk).discard(visitor())
    assert not gone.choice["visible"] and not gone.outcome and "Discarded" in text_of(gone.status)
    last = distilled(desk, "A unanimous problem")[-1]
    assert "Nothing was learnt" in text_of(last.outcome) and not last.choice["visible"]
    assert len(desk.engine.bank) == 2


def test_a_stopped_distillation_leaves_nothing_to_keep(desk: AppSession) -> None:
    desk.engine.pace = 0.005
    stream = pressed(Distil, desk, visitor(), SLOWLY, *SETTINGS, 4, 1e-3, 20)
    for _ in range(4):
        next(stream)
    assert "The bank is as it was" in text_of(Distil(desk).stop(visitor()).status)
    assert not list(stream)[-1].choice["visible"]
    assert desk.visit(visitor()).pending is None


def test_the_waiting_memory_belongs_to_one_visitor(desk: AppSession) -> None:
    distilled(desk, who=visitor("a"))
    assert "no memory to keep" in text_of(Distil(desk).keep(visitor("b")).status)
    assert desk.visit(visitor("a")).pending is not None


def test_a_full_disk_loses_nothing(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    distilled(desk)

    def full(_: Any) -> str:
        raise LatentmemError("The disk is full: free some space.")

    monkeypatch.setattr(desk.engine, "keep", full)
    picture = Distil(desk).keep(visitor())
    assert "disk is full" in text_of(picture.status) and picture.choice["visible"]


def test_the_solved_problem_is_distilled_and_not_what_stands_in_the_box(desk: AppSession) -> None:
    asked(desk, ANN)
    _, box, *_ = Distil(desk).take_over(visitor(), "Another one?", *SETTINGS, 4, 1e-3, 20)
    assert box == ANN == desk.visit(visitor()).runs["distil"].asked.problem
    _, box, *_ = Distil(desk).take_over(visitor("new"), "Another one?", *SETTINGS, 4, 1e-3, 20)
    assert box == "Another one?"


@pytest.mark.parametrize("full", [True, False])
def test_only_a_full_queue_refuses_a_press(desk: AppSession, full: bool) -> None:
    """An event that was stopped has failed, too, in gradio's eyes: it must not end the press that
    waits behind it."""
    desk.full = lambda: full
    Solve(desk).press(visitor(), ANN, "off", None, *SETTINGS)
    shown = Solve(desk).refused(visitor())
    assert desk.visit(visitor()).runs["solve"].pressed is not full
    assert (
        ("queue is full" in text_of(shown.status))
        if full
        else all("value" not in update for update in shown)
    )
