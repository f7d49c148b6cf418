"""The handlers of Solve and Distil without a browser, against an engine without a model."""

from __future__ import annotations

import functools
import json
import time
from typing import Any

import pytest

from latentmem.records import Delta, LatentmemError
from latentmem.ui import arrival, distil, runs, session, solve, warming, whatif
from latentmem.ui.session import Desk

from .fake_engine import FakeEngine
from .ui_samples import ANN, BO, LOOK, SETTINGS, asked, distilled, new_desk, pressed, settle, text_of, visitor

SLOWLY = f"{ANN} Count slowly."  # the engine takes seconds over it: it does not end before it is stopped


@pytest.fixture
def desk() -> Desk:
    return new_desk()


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture every hundredth of a second, so that a quick engine is seen at its steps, too."""
    monkeypatch.setattr(warming, "LOOK", 0.005)
    for panel in (solve, distil):
        monkeypatch.setattr(panel, "follow", functools.partial(session.follow, refresh=0.01))


# ------------------------------------------------------------------ solve
def test_solving_streams_and_ends_with_the_receipt(desk: Desk) -> None:
    pictures = asked(desk)
    first, last = pictures[0], pictures[-1]
    assert first.press["interactive"] is False and first.stop["interactive"] is True and not first.receipt
    assert "Receipt" in text_of(last.receipt) and last.press["interactive"] is True and last.stop["interactive"] is False
    assert last.after["visible"] and last.feedback["visible"]
    assert len(last.cards) == 16 + 2 and len(last.votes) == 2
    assert "Bo has 5 cats" in text_of(last.receipt)
    json.dumps([p._asdict() for p in pictures])


@pytest.mark.parametrize(("mode", "words"), [
    ("off", "Answered without a memory"), ("auto", "Bo has 5 cats"), ("chosen", "A train goes")])
def test_the_choice_of_memory(desk: Desk, mode: str, words: str) -> None:
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    assert words in text_of(asked(desk, mode=mode, memory=train)[-1].receipt)


@pytest.mark.parametrize(("text", "changes", "words"), [
    ("   ", {}, "The problem is empty"), (ANN, {"rollouts": 0}, "rollouts"), (ANN, {"temperature": float("nan")}, "temperature"),
    (ANN, {"memory": "m000nothere", "mode": "chosen"}, "m000nothere")])
def test_what_a_user_can_mend_is_one_sentence(desk: Desk, text: str, changes: dict, words: str) -> None:
    last = asked(desk, text, **changes)[-1]
    assert words in text_of(last.status) and 'role="alert"' in text_of(last.status)
    assert last.press["interactive"] is True and not last.receipt


def test_a_bug_shows_no_traceback(desk: Desk) -> None:
    desk.engine.shared["fail"] = RuntimeError("secret /path")
    last = asked(desk)[-1]
    assert "secret" not in text_of(last.status) and "server&#39;s log" in text_of(last.status)
    assert desk.engine.shared["open"] == 0


def test_the_model_is_loaded_first_with_progress(quick_pictures: None) -> None:
    desk = Desk(FakeEngine(ready=False, pace=0.003))
    assert any("Downloading the model" in text_of(p.status) for p in asked(desk))
    assert desk.engine.ready


def test_stop_ends_the_engine_and_keeps_what_was_seen(desk: Desk) -> None:
    desk.engine.pace = 0.005
    stream = pressed(solve, desk, visitor(), SLOWLY, "auto", None, *SETTINGS)
    for _ in range(3):
        next(stream)
    stopped = solve.stop(desk, visitor())
    assert "Stopped" in text_of(stopped.status) and stopped.press["interactive"] is True
    last = list(stream)[-1]
    assert "Stopped" in text_of(last.status) and not last.receipt and last.cards
    settle(desk)
    assert desk.engine.shared["open"] == 0
    assert "writing…" not in text_of(last.cards)


def test_closing_the_stream_closes_the_engine(desk: Desk) -> None:
    stream = pressed(solve, desk, visitor(), SLOWLY, "auto", None, *SETTINGS)
    desk.engine.pace = 0.005
    for _ in range(3):
        next(stream)
    assert desk.engine.shared["open"] == 1
    stream.close()
    settle(desk)
    assert desk.engine.shared["open"] == 0


def test_a_visitor_who_leaves_stops_their_run(desk: Desk) -> None:
    stream = pressed(solve, desk, visitor("gone"), ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    run = desk.visit(visitor("gone")).runs["solve"]
    arrival.leave(desk, visitor("gone"))
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


def test_replay_feedback_and_counterfactual(desk: Desk) -> None:
    for handler in (whatif.replay, functools.partial(whatif.compare, other="x")):
        assert "Solve a problem first" in text_of(list(handler(desk, request=visitor("new")))[-1])
    assert "Solve a problem first" in text_of(whatif.said_right(desk, visitor("new")))
    last = asked(desk)[-1]
    assert "Choose a memory first" in text_of(list(whatif.compare(desk, None, visitor()))[-1])
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    assert last.what_if["visible"] and [c[1] for c in last.other["choices"]] == [train] == [last.other["value"]]
    events = len(desk.engine.bank.events())
    columns = list(whatif.compare(desk, train, visitor()))[-1]
    assert text_of(columns).count('class="column"') == 3
    assert text_of(list(whatif.compare(desk, train, visitor()))[-1]).count('class="column"') == 3  # not twice
    assert len(desk.engine.bank.events()) == events, "a counterfactual is no use of the memory"
    assert "no memory" in text_of(list(whatif.compare(desk, "m000nothere", visitor()))[-1]).lower()
    assert "same tokens" in text_of(list(whatif.replay(desk, visitor()))[-1])
    assert "Noted" in text_of(whatif.said_wrong(desk, visitor()))
    assert any(e.kind == "feedback" for e in desk.engine.bank.events())


@pytest.mark.parametrize("name", ["compare", "replay"])
def test_a_comparison_ends_with_the_answer_that_it_belongs_to(desk: Desk, quick_pictures: None, name: str) -> None:
    """Another problem is posed while it goes on: nothing of it is drawn under the new answer or kept beside it."""
    asked(desk)
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    desk.engine.pace = 0.005
    stream = whatif.compare(desk, train, visitor()) if name == "compare" else whatif.replay(desk, visitor())
    next(stream)
    assert whatif.still_going(desk, visitor())["interactive"]
    solve.press(desk, visitor(), BO, "off", None, *SETTINGS)
    assert list(stream) == [] and desk.visit(visitor()).columns == []
    settle(desk)
    assert not desk.visit(visitor()).busy(name)


def test_before_and_after_ends_with_the_memory_that_it_belongs_to(desk: Desk, quick_pictures: None) -> None:
    distilled(desk)
    desk.engine.pace = 0.005
    stream = distil.before_after(desk, distil.ALL, visitor())
    next(stream)
    assert distil.still_going(desk, visitor())["interactive"]
    distil.press(desk, visitor(), BO, *SETTINGS, 4, 1e-3, 20)
    assert list(stream) == []


# ------------------------------------------------------------------ distil
def test_distil_try_keep_and_try_again(desk: Desk, quick_pictures: None) -> None:
    desk.engine.pace = 0.001
    pictures = distilled(desk)
    desk.engine.pace = 0
    last = pictures[-1]
    assert any("Step 2 of 4" in text_of(p.status) for p in pictures) and any(p.curve["data"] for p in pictures[:-1])
    assert last.choice["visible"] and last.after["visible"] and len(desk.engine.bank) == 2
    assert "not yet kept" in text_of(last.outcome) and [len(d["x"]) for d in last.curve["data"]] == [5, 5, 5]
    events = len(desk.engine.bank.events())
    assert text_of(list(distil.before_after(desk, distil.SAME, visitor()))[-1]).count('class="column"') == 2
    assert len(desk.engine.bank) == 2 and len(desk.engine.bank.events()) == events, "a trial leaves nothing behind"
    kept = distil.keep(desk, visitor())
    assert len(desk.engine.bank) == 3 and kept.after["visible"] and not kept.choice["visible"]
    assert "See it on the map" in text_of(kept.outcome)
    assert "no memory to keep" in text_of(distil.keep(desk, visitor()).status)
    assert text_of(list(distil.before_after(desk, BO, visitor()))[-1]).count('class="column"') == 2
    assert text_of(list(distil.before_after(desk, distil.ALL, visitor()))[-1]).count('class="column"') == 6
    assert "Distil a memory first" in text_of(list(distil.before_after(desk, distil.SAME, visitor("new")))[-1])
    json.dumps([p._asdict() for p in pictures])


def test_the_nearest_examples_are_offered_first(desk: Desk) -> None:
    text = next(t for t, p in desk.examples.items() if session.family(p) == "change")
    offered = distilled(desk, text)[-1].on["choices"]
    assert offered[:2] == [distil.ALL, distil.SAME] and len(offered) == len(desk.examples) + 2 and text not in offered[2:7]
    assert sum(session.family(desk.examples[t]) == "change" for t in offered[2:7]) >= 3


def test_discard_and_nothing_learnt_store_nothing(desk: Desk) -> None:
    distilled(desk)
    gone = distil.discard(desk, visitor())
    assert not gone.choice["visible"] and not gone.outcome and "Discarded" in text_of(gone.status)
    last = distilled(desk, "A unanimous problem")[-1]
    assert "Nothing was learnt" in text_of(last.outcome) and not last.choice["visible"]
    assert len(desk.engine.bank) == 2


def test_a_stopped_distillation_leaves_nothing_to_keep(desk: Desk) -> None:
    desk.engine.pace = 0.005
    stream = pressed(distil, desk, visitor(), SLOWLY, *SETTINGS, 4, 1e-3, 20)
    for _ in range(4):
        next(stream)
    assert "The bank is as it was" in text_of(distil.stop(desk, visitor()).status)
    assert not list(stream)[-1].choice["visible"]
    assert desk.visit(visitor()).pending is None


def test_the_waiting_memory_belongs_to_one_visitor(desk: Desk) -> None:
    distilled(desk, who=visitor("a"))
    assert "no memory to keep" in text_of(distil.keep(desk, visitor("b")).status)
    assert desk.visit(visitor("a")).pending is not None


def test_a_full_disk_loses_nothing(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    distilled(desk)

    def full(_: Any) -> str:
        raise LatentmemError("The disk is full: free some space.")

    monkeypatch.setattr(desk.engine, "keep", full)
    picture = distil.keep(desk, visitor())
    assert "disk is full" in text_of(picture.status) and picture.choice["visible"]


def test_the_nearest_memories_stay_first_after_the_map_was_drawn_again(desk: Desk) -> None:
    from latentmem.ui import memories

    first = asked(desk)[-1].other["choices"]
    again = memories.refresh(desk, *LOOK, "", visitor())
    assert again.solve_other["choices"] == first and len(again.solve_memory["choices"]) == len(desk.engine.bank)
    assert memories.refresh(desk, *LOOK, "", visitor("new")).solve_other["choices"] == again.solve_memory["choices"]


@pytest.mark.parametrize("full", [True, False])
def test_only_a_full_queue_refuses_a_press(desk: Desk, full: bool) -> None:
    """An event that was stopped has failed, too, in gradio's eyes: it must not end the press that waits behind it."""
    desk.full = lambda: full
    solve.press(desk, visitor(), ANN, "off", None, *SETTINGS)
    shown = solve.refused(desk, visitor())
    assert desk.visit(visitor()).runs["solve"].pressed is not full
    assert ("queue is full" in text_of(shown.status)) if full else all("value" not in update for update in shown)
