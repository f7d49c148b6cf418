"""What is asked after an answer or a distillation: another memory, the same again, before and
after; and that Stop ends it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr
import pytest

from latentmem.ui.panels import distil, memories, solve
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession
from tests.memory_samples import placed
from tests.ui.test_ui import hurry, tried
from tests.ui_samples import (
    ANN,
    BO,
    LOOK,
    SETTINGS,
    asked,
    distilled,
    new_desk,
    settle,
    text_of,
    visitor,
)


@pytest.fixture
def desk() -> AppSession:
    return new_desk()


@pytest.fixture
def quick_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


def compared(desk: AppSession, other: str | None, who: Any = None) -> Iterator[Any]:
    """Compare is pressed, and has its turn in the queue."""
    Solve(desk).compare.press(other, who or visitor())
    return Solve(desk).compare.begin(who or visitor())


def replayed(desk: AppSession, who: Any = None) -> Iterator[Any]:
    """The same for asking again."""
    Solve(desk).replay.press(who or visitor())
    return Solve(desk).replay.begin(who or visitor())


def test_replay_feedback_and_counterfactual(desk: AppSession) -> None:
    for handler in (replayed, functools.partial(compared, other="x")):
        assert "Solve a problem first" in text_of(list(handler(desk, who=visitor("new")))[-1])
    assert not desk.visit(visitor("new")).busy("compare", "replay"), (
        "what could not begin is not waited for"
    )
    assert "Solve a problem first" in text_of(Solve(desk).said_right(visitor("new")))
    last = asked(desk)[-1]
    assert "Choose a memory first" in text_of(list(compared(desk, None))[-1])
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    assert last.what_if["visible"] and [c[1] for c in last.other["choices"]] == [train] == [
        last.other["value"]
    ]
    events = len(desk.engine.bank.events())
    columns = list(compared(desk, train))[-1]
    assert text_of(columns).count('class="column"') == 3
    assert text_of(list(compared(desk, train))[-1]).count('class="column"') == 3  # not twice
    assert len(desk.engine.bank.events()) == events, "a counterfactual is no use of the memory"
    assert "no memory" in text_of(list(compared(desk, "m000nothere"))[-1]).lower()
    assert "same tokens" in text_of(list(replayed(desk))[-1])
    assert "Noted" in text_of(Solve(desk).said_wrong(visitor()))
    assert any(e.kind == "feedback" for e in desk.engine.bank.events())


@pytest.mark.parametrize("name", ["compare", "replay"])
def test_a_comparison_ends_with_the_answer_that_it_belongs_to(
    desk: AppSession, quick_pictures: None, name: str
) -> None:
    """Another problem is posed while it goes on: nothing of it is drawn under the new answer or
    kept beside it."""
    asked(desk)
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    desk.engine.pace = 0.005
    stream = compared(desk, train) if name == "compare" else replayed(desk)
    next(stream)
    assert Solve(desk).still_going(visitor())["interactive"]
    Solve(desk).press(visitor(), BO, "off", None, *SETTINGS)
    assert list(stream) == [] and desk.visit(visitor()).columns == []
    settle(desk)
    assert not desk.visit(visitor()).busy(name)


def test_before_and_after_ends_with_the_memory_that_it_belongs_to(
    desk: AppSession, quick_pictures: None
) -> None:
    distilled(desk)
    desk.engine.pace = 0.005
    stream = tried(desk, distil.ALL)
    next(stream)
    assert Distil(desk).still_going(visitor())["interactive"]
    Distil(desk).press(visitor(), BO, *SETTINGS, 4, 1e-3, 20)
    assert list(stream) == [] and not desk.visit(visitor()).busy("before_after")


def test_what_is_kept_meanwhile_leaves_its_comparison_stoppable_and_what_is_discarded_ends_it(
    desk: AppSession, quick_pictures: None
) -> None:
    for choose, goes_on in ((Distil(desk).keep, True), (Distil(desk).discard, False)):
        desk.engine.pace = 0.0
        distilled(desk)
        desk.engine.pace = 0.005
        stream = tried(desk, distil.SAME)
        next(stream)
        assert (
            choose(visitor()).stop_button["interactive"]
            is goes_on
            is desk.visit(visitor()).busy("before_after")
        )
        assert ("Stopped" in text_of(list(stream)[-1])) is not goes_on
        assert bool(desk.visit(visitor()).trials) is goes_on


def test_before_and_after_stops_in_the_midst_of_its_problems(
    desk: AppSession, quick_pictures: None
) -> None:
    distilled(desk)
    desk.engine.pace = 0.002
    stream = tried(desk, distil.ALL)
    while not any(key.startswith("row-") for key, _ in next(stream)):
        pass  # the first problem
    Distil(desk).stop(visitor())
    assert (
        "Stopped" in text_of(list(stream)[-1])
        and not Distil(desk).still_going(visitor())["interactive"]
    )


# ------------------------------------------------------------------ Stop is there as long as something goes on or waits
def test_what_waits_in_the_queue_can_be_stopped(desk: AppSession) -> None:
    asked(desk), distilled(desk)
    train = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains")
    answer, learnt = Solve(desk), Distil(desk)
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
    Solve(desk).press(visitor(), BO, "off", None, *SETTINGS)
    assert Solve(desk).still_going(visitor())["interactive"], (
        "a comparison that ends does not take Stop from it"
    )


@pytest.mark.parametrize("cancelled", ["first", "afterwards"])
@pytest.mark.parametrize("name", ["compare", "replay"])
def test_stop_leaves_the_memory_that_was_chosen_for_the_comparison(
    desk: AppSession, quick_pictures: None, name: str, cancelled: str
) -> None:
    """Else the list would go back to the nearest. gradio may close the event before it asks what
    Stop shows."""
    last = asked(desk, mode="off")[-1]
    assert last.other["value"] == last.other["choices"][0][1], (
        "the nearest, once, when the answer is there"
    )
    desk.engine.pace = 0.005
    stream = compared(desk, last.other["choices"][1][1]) if name == "compare" else replayed(desk)
    next(stream)
    if cancelled == "first":
        stream.close()
        settle(desk)
    shown = Solve(desk).stop(visitor())
    assert shown.other == gr.skip() and shown.receipt == last.receipt and shown.what_if["visible"]
    settle(desk)
    desk.engine.pace = 0
    assert asked(desk, BO)[-1].other["value"], "the next answer has a list of its own"
    Solve(desk).press(visitor(), ANN, "off", None, *SETTINGS)
    assert not {"compare", "replay"} & set(desk.visit(visitor()).runs), (
        "nor does a stop of that one take them for its own"
    )


@pytest.mark.parametrize("full", [True, False])
def test_a_comparison_that_a_full_queue_refuses_says_so(desk: AppSession, full: bool) -> None:
    desk.full = lambda: full
    asked(desk), distilled(desk)
    Solve(desk).compare.press("m1", visitor()), Solve(desk).replay.press(visitor())
    Distil(desk).compare.press(distil.SAME, visitor())
    answer, learnt = Solve(desk), Distil(desk)
    for comparison in (answer.compare, answer.replay, learnt.compare):
        shown = comparison.refused(visitor())
        assert ("queue is full" in text_of(shown)) if full else shown == gr.skip()
    assert desk.visit(visitor()).busy("compare", "replay", "before_after") is not full


# ------------------------------------------------------------------ which memory is offered
def test_the_nearest_memories_stay_first_after_the_map_was_drawn_again(desk: AppSession) -> None:
    first = asked(desk)[-1].other["choices"]
    again = memories.refresh(desk, *LOOK, "", visitor())
    assert again.solve_other["choices"] == first and len(again.solve_memory["choices"]) == len(
        desk.engine.bank
    )
    assert (
        memories.refresh(desk, *LOOK, "", visitor("new")).solve_other["choices"]
        == again.solve_memory["choices"]
    )


def test_the_nearest_memories_are_those_of_the_answered_problem(desk: AppSession) -> None:
    """Another problem is placed on the map meanwhile: its similarities do not belong under the
    answer."""
    first = asked(desk, mode="off")[-1].other["choices"]
    assert "Bo has 5 cats" in first[0][0] and all(label.startswith("0.") for label, _ in first), (
        "the nearest first"
    )
    placed(desk, "A train goes 40 km in two hours.")
    assert memories.refresh(desk, *LOOK, "", visitor()).solve_other["choices"] == first
    visit = desk.visit(visitor())
    again = Solve(desk).draw(desk, visit, visit.runs["solve"], False)
    assert again.other["choices"] == first


def test_the_star_is_the_answered_problem_or_none(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(desk, BO)
    assert desk.visit(visitor()).star.text == BO
    monkeypatch.setattr(solve, "star_of", lambda *_: 1 / 0)
    assert "Receipt" in text_of(asked(desk, ANN)[-1].receipt) and desk.visit(visitor()).star is None
