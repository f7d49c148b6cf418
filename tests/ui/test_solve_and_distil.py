"""The Solve and Distil panels without a browser, against an engine without a model."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from latentmem.records import Delta, LatentmemError, Trace
from latentmem.settings import Settings
from latentmem.ui import runs
from latentmem.ui import session as visits
from latentmem.ui.app import Page
from latentmem.ui.map import panel_state
from latentmem.ui.panels import distil, solve
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve, SolveView
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
from tests.memory_samples import asks, placed
from tests.ui_samples import (
    ANN,
    BO,
    SETTINGS,
    SLOWLY,
    asked,
    distilled,
    pressed,
    settle,
    text_of,
    tried,
    visitor,
)


# ---------- solve
def test_solving_streams_and_ends_with_the_receipt(session: AppSession) -> None:
    pictures = asked(session)
    first, last = pictures[0], pictures[-1]
    assert first.press_button["interactive"] is False
    assert first.stop_button["interactive"] is True
    assert not first.receipt
    assert "Receipt" in text_of(last.receipt)
    assert last.press_button["interactive"] is True
    assert last.stop_button["interactive"] is False
    assert last.after["visible"] and last.feedback["visible"]
    assert len(last.cards) == 16 + 2 + 1 and len(last.votes) == 2
    assert "Bo has 5 cats" in text_of(last.receipt)
    json.dumps([p._asdict() for p in pictures])


@pytest.mark.parametrize(
    ("mode", "words"),
    [("off", "The model alone"), ("auto", "Bo has 5 cats"), ("chosen", "A train goes")],
)
def test_the_choice_of_memory(session: AppSession, mode: str, words: str) -> None:
    train = next(i.id for i in session.engine.bank.infos() if i.problem.source == "trains")
    assert words in text_of(asked(session, mode=mode, memory=train)[-1].receipt)


def test_this_one_without_a_memory_is_refused(session: AppSession) -> None:
    shown = Solve(session).press(visitor(), ANN, "chosen", None, *SETTINGS)
    assert "Choose a memory first" in text_of(shown.status)
    assert shown.press_button["interactive"]
    assert not shown.stop_button["interactive"]
    assert next(Solve(session).begin(visitor())) == SolveView(), "it has no turn"
    assert session.engine.shared["closed"] == 0


def test_what_is_looked_up_is_said_as_it_is(session: AppSession) -> None:
    train = next(i.id for i in session.engine.bank.infos() if i.problem.source == "trains")
    said = {}
    for mode in ("off", "auto", "chosen"):
        panel, visit = Solve(session), session.visit(visitor())
        run = panel.new_run(visit, panel.asked(ANN, mode, train, *SETTINGS[:-1], 0.9))
        for record in session.engine.answer(
            session.problem(ANN), train if mode == "chosen" else mode
        ):
            run.scene.add(record)
            if run.scene.retrieval is not None:
                break
        said[mode] = dict(panel.draw(session, visit, run, True).status)["hits"]
    assert "Memories are off" in said["off"]
    assert "Nearest memory" in said["auto"]
    assert "too far" in said["auto"]
    assert "Chosen by you" in said["chosen"]
    assert "too far" not in said["chosen"]
    assert train in said["chosen"]
    receipt = text_of(asked(session, mode="chosen", memory=train)[-1].receipt)
    assert "by you" in receipt and "looked up" not in receipt and "Lead over" not in receipt


@pytest.mark.parametrize("panel", [Solve, Distil])
def test_an_over_long_problem_is_refused_and_not_cut(panel: Any) -> None:
    session, more = (
        AppSession(FakeEngine(Settings(hosted=True, hosted_chars=200))),
        (4, 1e-3, 20, None, None) if panel is Distil else (),
    )
    given = ("auto", None, *SETTINGS) if panel is Solve else (*SETTINGS, *more)
    last = list(pressed(panel, session, visitor(), "x" * 201, *given))[-1]
    assert "201 characters and the limit is 200" in text_of(last.status)
    assert session.engine.shared["closed"] == 0


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
    session: AppSession, text: str, changes: dict, words: str
) -> None:
    last = asked(session, text, **changes)[-1]
    assert words in text_of(last.status) and 'role="alert"' in text_of(last.status)
    assert last.press_button["interactive"] is True and not last.receipt


def test_a_bug_shows_no_traceback(session: AppSession) -> None:
    session.engine.shared["fail"] = RuntimeError("secret /path")
    last = asked(session)[-1]
    assert "secret" not in text_of(last.status) and "server&#39;s log" in text_of(last.status)
    assert session.engine.shared["open"] == 0


def test_the_model_is_loaded_first_with_progress(quick_pictures: None) -> None:
    session = AppSession(FakeEngine(ready=False, pace=0.003))
    assert any("Downloading the model" in text_of(p.status) for p in asked(session))
    assert session.engine.ready


def test_stop_ends_the_engine_and_keeps_what_was_seen(session: AppSession) -> None:
    session.engine.pace = 0.005
    stream = pressed(Solve, session, visitor(), SLOWLY, "auto", None, *SETTINGS)
    for _ in range(3):
        next(stream)
    stopped = Solve(session).stop(visitor())
    assert "Stopped" in text_of(stopped.status) and stopped.press_button["interactive"] is True
    last = list(stream)[-1]
    assert "Stopped" in text_of(last.status) and not last.receipt and last.cards
    settle(session)
    assert session.engine.shared["open"] == 0
    assert "writing…" not in text_of(last.cards)


def test_closing_the_stream_closes_the_engine(session: AppSession) -> None:
    stream = pressed(Solve, session, visitor(), SLOWLY, "auto", None, *SETTINGS)
    session.engine.pace = 0.005
    for _ in range(3):
        next(stream)
    assert session.engine.shared["open"] == 1
    stream.close()
    settle(session)
    assert session.engine.shared["open"] == 0


def test_a_visitor_who_leaves_stops_their_run(session: AppSession) -> None:
    stream = pressed(Solve, session, visitor("gone"), ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    run = session.visit(visitor("gone")).runs["solve"]
    Page(session).leave(visitor("gone"))
    list(stream)
    run.thread.join(20)
    assert session.engine.shared["open"] == 0
    assert "gone" not in session.visits
    assert len(session.visits) == 0


def test_at_most_eight_pictures_a_second() -> None:
    def records() -> Any:
        for i in range(300):
            time.sleep(0.001)
            yield Delta(0, str(i))

    run, began = runs.Run(), time.monotonic()
    drawn = sum(1 for _ in runs.follow(records(), run))
    assert drawn <= (time.monotonic() - began) / runs.REFRESH + 1
    assert run.scene.rows["zero_shot", 0].text.endswith("299")


# ---------- distil
def test_distil_try_keep_and_try_again(session: AppSession, quick_pictures: None) -> None:
    session.engine.pace = 0.001
    pictures = distilled(session)
    session.engine.pace = 0
    last = pictures[-1]
    assert any("Step 2 of 4" in text_of(p.status) for p in pictures) and any(
        p.curve["data"] for p in pictures[:-1]
    )
    assert last.choice["visible"] and last.after["visible"] and len(session.engine.bank) == 2
    assert "not yet kept" in text_of(last.outcome) and [
        len(d["x"]) for d in last.curve["data"]
    ] == [5, 4, 4]
    events = len(session.engine.bank.events())
    assert text_of(list(tried(session, distil.SAME))[-1]).count('class="column"') == 2
    assert len(session.engine.bank) == 2 and len(session.engine.bank.events()) == events, (
        "a trial leaves nothing behind"
    )
    kept = Distil(session).keep(visitor())
    assert len(session.engine.bank) == 3 and kept.after["visible"] and not kept.choice["visible"]
    assert "See it on the map" in text_of(kept.outcome)
    assert "no memory to keep" in text_of(Distil(session).keep(visitor()).status)
    assert text_of(list(tried(session, BO))[-1]).count('class="column"') == 2
    assert text_of(list(tried(session, distil.ALL))[-1]).count('class="column"') == 6
    assert "Distil a memory first" in text_of(list(tried(session, distil.SAME, visitor("new")))[-1])
    json.dumps([p._asdict() for p in pictures])


def test_the_nearest_examples_are_offered_first(session: AppSession) -> None:
    text = next(t for t, p in session.examples.items() if visits.family(p) == "change")
    offered = distilled(session, text)[-1].on["choices"]
    assert offered[:2] == [distil.ALL, distil.SAME]
    assert len(offered) == len(session.examples) + 2
    assert text not in offered[2:7]
    assert sum(visits.family(session.examples[t]) == "change" for t in offered[2:7]) >= 3


# ---------- a vote that cannot be learnt from
def pressed_help(value: str) -> gr.EventData:
    return gr.EventData(None, {"do": "retry", "value": value})


def test_distil_is_offered_where_the_vote_can_be_learnt_from(session: AppSession) -> None:
    fit = asked(session)[-1]
    assert fit.offer["visible"] and not fit.help
    session.engine = session.engine.changed(gate_votes=9)
    for last in (asked(session)[-1], distilled(session, "A unanimous problem")[-1]):
        told = text_of(getattr(last, "help", None) or last.outcome)
        assert "Another seed" in told and "A problem that works" in told
    weak = asked(session)[-1]
    assert not weak.offer["visible"] and weak.after["visible"]
    assert "The vote is too weak to learn from" in text_of(weak.help)


def test_another_seed_asks_the_same_again_and_another_problem_is_one_of_a_known_family(
    session: AppSession,
) -> None:
    asked(session)
    *_, box, seed = Solve(session).retry(pressed_help("seed"), visitor(), 4)
    assert (box, seed) == (ANN, 5)
    topic, example, box, seed = Solve(session).retry(pressed_help("problem"), visitor(), 4)
    assert box == visits.opening(session).text and seed == 4
    assert example["value"] == box and topic == visits.family(session.examples[box])
    asked(session, box)
    *_, other, _ = Solve(session).retry(pressed_help("problem"), visitor(), 4)
    assert other in session.examples and other != box
    assert Distil(session).retry(pressed_help("seed"), BO, 7, None) == (BO, 8)
    assert Distil(session).retry(pressed_help("seed"), BO, 7, 2) == (BO, 3)
    assert Distil(session).retry(pressed_help("problem"), BO, 7, 2)[0] in session.examples
    assert Distil(session).retry(gr.EventData(None, None), BO, None, None) == (BO, 1)


# ---------- how long a press will take
def test_the_time_of_a_press_stands_beside_its_button(session: AppSession) -> None:
    page = Page(session)
    *_, solve_, after, distil_, stream_ = page.head(visitor())
    assert solve_ == after == distil_ == stream_ == [], "nothing is known yet"
    session.pace.see(Trace(0, "", "1", True, 200, seconds=20.0))
    sized = ("auto", 8, 320, 10, ["vote"], 4)
    *_, solve_, after, distil_, stream_ = page.head(visitor(), *sized)
    assert "about 30 s" in text_of(solve_), "two sides"
    assert "about 7 min" in text_of(after) and "about 7 min" in text_of(distil_)
    assert "about 1 min" in text_of(stream_)
    *_, solve_, _, _, none = page.head(visitor(), "off", 8, 320, 10, [], 4)
    assert "about 20 s" in text_of(solve_) and none == []
    session.ahead = lambda _: 2
    _, timer, solve_, *_ = page.head(visitor(), *sized)
    assert "about 30 s, after 2 other runs" in text_of(solve_) and timer["active"]
    waits = Solve(session).press(visitor(), ANN, "auto", None, *SETTINGS)
    assert "Waiting for the model, 2 runs ahead" in text_of(waits.status)


def test_a_few_tokens_show_the_pace_before_the_first_press() -> None:
    session = AppSession(FakeEngine(ready=False))  # type: ignore[arg-type]
    list(session.warming.follow(session.engine))
    assert session.pace.token > 0 == session.pace.length and not session.warming.error


def test_discard_and_nothing_learnt_store_nothing(session: AppSession) -> None:
    distilled(session)
    gone = Distil(session).discard(visitor())
    assert not gone.choice["visible"] and not gone.outcome and "Discarded" in text_of(gone.status)
    last = distilled(session, "A unanimous problem")[-1]
    assert "All traces agree" in text_of(last.outcome) and not last.choice["visible"]
    assert len(session.engine.bank) == 2


def test_a_stopped_distillation_leaves_nothing_to_keep(session: AppSession) -> None:
    session.engine.pace = 0.005
    stream = pressed(Distil, session, visitor(), SLOWLY, *SETTINGS, 4, 1e-3, 20, None, None)
    for _ in range(4):
        next(stream)
    assert "The bank is as it was" in text_of(Distil(session).stop(visitor()).status)
    assert not list(stream)[-1].choice["visible"]
    assert session.visit(visitor()).pending is None


def test_stop_can_keep_the_best_so_far(session: AppSession) -> None:
    panel, given = Distil(session), (*SETTINGS, 40, 1e-3, 20, None, None)
    session.engine.pace = 0.001
    offered = []
    for shown in pressed(Distil, session, visitor(), ANN, *given):
        offered.append(shown.best_button["visible"])
        if offered[-1] is True:
            assert panel.enough(visitor())["visible"] is False
    assert True in offered and offered[0] is offered[-1] is False
    done = session.visit(visitor()).runs["distil"].scene
    assert 2 <= len(done.steps) < 40 and done.distilled.memory is not None and not done.stopped
    assert shown.choice["visible"] and session.visit(visitor()).pending is done.distilled


def test_the_waiting_memory_belongs_to_one_visitor(session: AppSession) -> None:
    distilled(session, who=visitor("a"))
    assert "no memory to keep" in text_of(Distil(session).keep(visitor("b")).status)
    assert session.visit(visitor("a")).pending is not None


def test_a_full_disk_loses_nothing(session: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    distilled(session)

    def full(_: Any) -> str:
        raise LatentmemError("The disk is full: free some space.")

    monkeypatch.setattr(session.engine, "keep", full)
    picture = Distil(session).keep(visitor())
    assert "disk is full" in text_of(picture.status) and picture.choice["visible"]


def test_the_solved_problem_is_distilled_and_not_what_stands_in_the_box(
    session: AppSession,
) -> None:
    asked(session, ANN)
    _, box, *_ = Distil(session).take_over(
        visitor(), "Another one?", *SETTINGS, 4, 1e-3, 20, None, None
    )
    assert box == ANN == session.visit(visitor()).runs["distil"].asked.problem
    _, box, *_ = Distil(session).take_over(
        visitor("new"), "Another one?", *SETTINGS, 4, 1e-3, 20, None, None
    )
    assert box == "Another one?"


@pytest.mark.parametrize("full", [True, False])
def test_only_a_full_queue_refuses_a_press(session: AppSession, full: bool) -> None:
    """An event that was stopped has failed, too, in gradio's eyes: it must not end the press that
    waits behind it."""
    session.full = lambda _: full
    Solve(session).press(visitor(), ANN, "off", None, *SETTINGS)
    shown = Solve(session).refused(visitor())
    assert session.visit(visitor()).runs["solve"].pressed is not full
    assert (
        ("queue is full" in text_of(shown.status))
        if full
        else all("value" not in update for update in shown)
    )


# ---------- after an answer or a distillation: comparisons, and that Stop ends them


def compared(session: AppSession, other: str | None, who: Any = None) -> Iterator[Any]:
    """Compare is pressed, and has its turn in the queue."""
    Solve(session).compare.press(other, who or visitor())
    return Solve(session).compare.begin(who or visitor())


def replayed(session: AppSession, who: Any = None) -> Iterator[Any]:
    """The same for asking again."""
    Solve(session).replay.press(who or visitor())
    return Solve(session).replay.begin(who or visitor())


def test_replay_feedback_and_counterfactual(session: AppSession) -> None:
    for handler in (replayed, functools.partial(compared, other="x")):
        assert "Solve a problem first" in text_of(list(handler(session, who=visitor("new")))[-1])
    assert not session.visit(visitor("new")).busy("compare", "replay"), (
        "what could not begin is not waited for"
    )
    assert "Solve a problem first" in text_of(Solve(session).said_right(visitor("new")))
    last = asked(session)[-1]
    assert "Choose a memory first" in text_of(list(compared(session, None))[-1])
    train = next(i.id for i in session.engine.bank.infos() if i.problem.source == "trains")
    assert last.what_if["visible"] and [c[1] for c in last.other["choices"]] == [train] == [
        last.other["value"]
    ]
    events = len(session.engine.bank.events())
    columns = list(compared(session, train))[-1]
    assert text_of(columns).count('class="column"') == 3
    assert text_of(list(compared(session, train))[-1]).count('class="column"') == 3  # not twice
    assert len(session.engine.bank.events()) == events, "a counterfactual is no use of the memory"
    assert "no memory" in text_of(list(compared(session, "m000nothere"))[-1]).lower()
    assert "same tokens" in text_of(list(replayed(session))[-1])
    assert "Noted" in text_of(Solve(session).said_wrong(visitor()))
    assert any(e.kind == "feedback" for e in session.engine.bank.events())


@pytest.mark.parametrize("name", ["compare", "replay"])
def test_a_comparison_ends_with_the_answer_that_it_belongs_to(
    session: AppSession, quick_pictures: None, name: str
) -> None:
    """Another problem is posed while it goes on: nothing of it is drawn under the new answer or
    kept beside it."""
    asked(session)
    train = next(i.id for i in session.engine.bank.infos() if i.problem.source == "trains")
    session.engine.pace = 0.005
    stream = compared(session, train) if name == "compare" else replayed(session)
    next(stream)
    assert Solve(session).still_going(visitor())["interactive"]
    Solve(session).press(visitor(), BO, "off", None, *SETTINGS)
    assert list(stream) == [] and session.visit(visitor()).columns == []
    settle(session)
    assert not session.visit(visitor()).busy(name)


def test_before_and_after_ends_with_the_memory_that_it_belongs_to(
    session: AppSession, quick_pictures: None
) -> None:
    distilled(session)
    session.engine.pace = 0.005
    stream = tried(session, distil.ALL)
    next(stream)
    assert Distil(session).still_going(visitor())["interactive"]
    Distil(session).press(visitor(), BO, *SETTINGS, 4, 1e-3, 20, None, None)
    assert list(stream) == [] and not session.visit(visitor()).busy("before_after")


def test_what_is_kept_meanwhile_leaves_its_comparison_stoppable_and_what_is_discarded_ends_it(
    session: AppSession, quick_pictures: None
) -> None:
    for choose, goes_on in ((Distil(session).keep, True), (Distil(session).discard, False)):
        session.engine.pace = 0.0
        distilled(session)
        session.engine.pace = 0.005
        stream = tried(session, distil.SAME)
        next(stream)
        assert (
            choose(visitor()).stop_button["interactive"]
            is goes_on
            is session.visit(visitor()).busy("before_after")
        )
        assert ("Stopped" in text_of(list(stream)[-1])) is not goes_on
        assert bool(session.visit(visitor()).trials) is goes_on


def test_before_and_after_stops_in_the_midst_of_its_problems(
    session: AppSession, quick_pictures: None
) -> None:
    distilled(session)
    session.engine.pace = 0.002
    stream = tried(session, distil.ALL)
    while not any(key.startswith("row-") for key, _ in next(stream)):
        pass  # the first problem
    Distil(session).stop(visitor())
    assert "Stopped" in text_of(list(stream)[-1])
    assert not Distil(session).still_going(visitor())["interactive"]


# ---------- Stop is there as long as something goes on or waits
def test_what_waits_in_the_queue_can_be_stopped(session: AppSession) -> None:
    asked(session), distilled(session)
    train = next(i.id for i in session.engine.bank.infos() if i.problem.source == "trains")
    answer, learnt = Solve(session), Distil(session)
    for press, work, panel in (
        (lambda: answer.compare.press(train, visitor()), answer.compare, answer),
        (lambda: answer.replay.press(visitor()), answer.replay, answer),
        (lambda: learnt.compare.press(distil.SAME, visitor()), learnt.compare, learnt),
    ):
        assert not panel.still_going(visitor())["interactive"] and press()["interactive"]
        assert panel.still_going(visitor())["interactive"], "work before it has ended meanwhile"
        panel.stop(visitor())
        assert not panel.still_going(visitor())["interactive"]
        assert [*work.begin(visitor())] == [gr.skip()], "and it does not begin when its turn comes"
        press()
        assert "Stopped" not in text_of(list(work.begin(visitor()))[-1])
    Solve(session).press(visitor(), BO, "off", None, *SETTINGS)
    assert Solve(session).still_going(visitor())["interactive"], (
        "a comparison that ends does not take Stop from it"
    )


@pytest.mark.parametrize("cancelled", ["first", "afterwards"])
@pytest.mark.parametrize("name", ["compare", "replay"])
def test_stop_leaves_the_memory_that_was_chosen_for_the_comparison(
    session: AppSession, quick_pictures: None, name: str, cancelled: str
) -> None:
    """Else the list would go back to the nearest. gradio may close the event before it asks what
    Stop shows."""
    last = asked(session, mode="off")[-1]
    assert last.other["value"] == last.other["choices"][0][1], (
        "the nearest, once, when the answer is there"
    )
    session.engine.pace = 0.005
    stream = (
        compared(session, last.other["choices"][1][1]) if name == "compare" else replayed(session)
    )
    next(stream)
    if cancelled == "first":
        stream.close()
        settle(session)
    shown = Solve(session).stop(visitor())
    assert shown.other == gr.skip() and shown.receipt == last.receipt and shown.what_if["visible"]
    settle(session)
    session.engine.pace = 0
    assert asked(session, BO)[-1].other["value"], "the next answer has a list of its own"
    Solve(session).press(visitor(), ANN, "off", None, *SETTINGS)
    assert not {"compare", "replay"} & set(session.visit(visitor()).runs), (
        "nor does a stop of that one take them for its own"
    )


@pytest.mark.parametrize("full", [True, False])
def test_a_comparison_that_a_full_queue_refuses_says_so(session: AppSession, full: bool) -> None:
    session.full = lambda _: full
    asked(session), distilled(session)
    Solve(session).compare.press("m1", visitor()), Solve(session).replay.press(visitor())
    Distil(session).compare.press(distil.SAME, visitor())
    answer, learnt = Solve(session), Distil(session)
    for comparison in (answer.compare, answer.replay, learnt.compare):
        shown = comparison.refused(visitor())
        assert ("queue is full" in text_of(shown)) if full else shown == gr.skip()
    assert session.visit(visitor()).busy("compare", "replay", "before_after") is not full


# ---------- which memory is offered
def test_the_nearest_memories_stay_first_after_the_map_was_drawn_again(session: AppSession) -> None:
    first = asked(session)[-1].other["choices"]
    again = panel_state.picture(asks(session))
    assert again.solve_other["choices"] == first and len(again.solve_memory["choices"]) == len(
        session.engine.bank
    )
    assert (
        panel_state.picture(asks(session, who=visitor("new"))).solve_other["choices"]
        == again.solve_memory["choices"]
    )


def test_the_nearest_memories_are_those_of_the_answered_problem(session: AppSession) -> None:
    """Another problem is placed on the map meanwhile: its similarities do not belong under the
    answer."""
    first = asked(session, mode="off")[-1].other["choices"]
    assert "Bo has 5 cats" in first[0][0] and all(label.startswith("0.") for label, _ in first), (
        "the nearest first"
    )
    placed(session, "A train goes 40 km in two hours.")
    assert panel_state.picture(asks(session)).solve_other["choices"] == first
    visit = session.visit(visitor())
    again = Solve(session).draw(session, visit, visit.runs["solve"], False)
    assert again.other["choices"] == first


def test_the_star_is_the_answered_problem_or_none(
    session: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(session, BO)
    assert session.visit(visitor()).star.text == BO
    monkeypatch.setattr(solve, "star_of", lambda *_: 1 / 0)
    assert "Receipt" in text_of(asked(session, ANN)[-1].receipt)
    assert session.visit(visitor()).star is None
