"""What the page of a memory says of its past: verdicts of every kind, however old, and events in
their true number."""

from __future__ import annotations

import re
from typing import Any

import pytest

from latentmem.bank import Bank, Overlay
from latentmem.records import Event
from latentmem.ui.map import panel_state
from latentmem.ui.panels.solve import Solve
from latentmem.ui.views import memory
from latentmem.ui.views.memory import History
from tests.bank_samples import make_memory
from tests.memory_samples import click, shop_session
from tests.ui_samples import asked, text_of, visitor


def event(kind: str, n: int = 0, memory_id: str = "m1", **changes: Any) -> Event:
    made = f"2026-01-{1 + n // 1440:02d}T{n // 60 % 24:02d}:{n % 60:02d}:00+00:00"
    return Event(
        memory_id,
        kind,
        **{  # type: ignore[arg-type]
            "problem_id": f"p{n}",
            "receipt_id": f"r{n}",
            "created": made,
            "id": f"{kind}{n}",
        }
        | changes,
    )


def told(*events: Event) -> str:
    return str(memory.verdicts(events))


# ------------------------------------------------------------------ verdicts that decide nothing
@pytest.mark.parametrize(
    ("verdicts", "words"),
    [
        ([True], "1 was judged right; the model alone gave the same answer, so"),
        ([False, False], "2 were judged wrong; the model alone gave the same answers, so"),
        (
            [True, True, False],
            "2 were judged right and 1 was judged wrong; the model alone gave the same answers, so",
        ),
    ],
)
def test_a_verdict_on_an_answer_without_which_it_were_the_same_is_told(
    verdicts: list[bool], words: str
) -> None:
    html = told(*(event("feedback", n, detail={"correct": v}) for n, v in enumerate(verdicts)))
    assert words in html and "Nobody has said" not in html and "<ul" not in html


def test_without_a_verdict_it_says_so() -> None:
    assert "Nobody has said yet" in told() == told(event("used"), event("retrieved"))


def test_other_verdicts_are_told_below_those_that_decided() -> None:
    right, wrong = {"correct": True}, {"correct": False}
    html = told(
        event("helped", 1), event("feedback", 1, detail=right), event("feedback", 2, detail=wrong)
    )
    assert (
        html.count("<li") == 1
        and "Of the other answers for which it was tried, 1 was judged wrong" in html
    )
    assert "other answers" not in told(event("hurt", 1), event("feedback", 1, detail=wrong))


def test_the_page_does_not_deny_a_verdict() -> None:
    """Both sides agree, and the visitor says that the answer is right: `judged` takes down no more
    than that."""
    session = shop_session()
    for n in range(4, 30):
        asked(session, f"Ann buys {n} pens at $2 each. How much change?")
        if (slip := session.engine.bank.receipts()[0]).route.agreed:
            break
    assert slip.route.agreed and slip.used is not None
    Solve(session).said_right(visitor())
    assert {e.kind for e in session.engine.bank.events(slip.used.memory_id)} == {
        "retrieved",
        "used",
        "agreed",
        "feedback",
    }
    page = text_of(click(session, {"id": slip.used.memory_id}).body)
    assert (
        "1 was judged right; the model alone gave the same answer" in page
        and "Nobody has said" not in page
    )


# ------------------------------------------------------------------ very many events
def used(bank: Any, name: str, answers: int) -> None:
    """An old verdict of each kind, and many answers since then."""
    old = [
        event(kind, n, memory_id=name, detail={"correct": n != 1})
        for n, kind in enumerate(("helped", "hurt", "feedback", "note", "tag"))
    ]
    bank.record_all(
        old
        + [
            event(kind, 10 + n, memory_id=name)
            for n in range(answers)
            for kind in ("retrieved", "used")
        ]
    )


def numbers(html: str) -> dict[str, int]:
    """The legend of the timeline."""
    return {k: int(n) for k, n in re.findall(r'class="k-(\w+)"><i></i>(\d+) ', html)}


def test_the_timeline_and_the_list_agree_with_the_counters() -> None:
    bank = Bank()
    name = bank.put(make_memory(0))
    used(bank, name, 400)
    info = bank.info(name)
    past = panel_state.history(bank, info)
    assert numbers(str(memory.timeline(past))) == {
        "retrieved": 400,
        "used": 400,
        "helped": 1,
        "hurt": 1,
    }
    assert "805 events, the newest 50 shown" in memory.event_list(past) and past.total == 805
    html = str(memory.verdicts(past))
    assert html.count("<li") == 2 and "1 was judged right" in html, (
        "however many answers came since"
    )
    assert "of the newest" not in memory.timeline(past)


@pytest.mark.parametrize("shared", [False, True])
def test_of_very_many_events_all_verdicts_are_read_and_all_are_counted(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(panel_state, "EVENTS", 100)
    under = Bank()
    name = under.put(make_memory(0))
    used(under, name, 400)
    bank: Any = Overlay(under) if shared else under
    if shared:
        bank.record(Event(name, "used", receipt_id="r9999"))
    past = panel_state.history(bank, bank.info(name))
    assert len(past) == 100 and past.total == len(bank.events(name)) == 805 + shared
    assert {e.kind for e in past.judgements} == {"helped", "hurt", "feedback"}
    assert f"of the newest 100 of {805 + shared} events" in memory.timeline(past)
    assert f"{805 + shared} events, the newest 50 shown" in memory.event_list(past)
    assert str(memory.verdicts(past)).count("<li") == 2


def test_a_long_list_of_verdicts_says_how_many_there_are() -> None:
    html = told(*(event("helped", n) for n in range(70)))
    assert html.count("<li") == memory.EVENTS_SHOWN and "The newest 50 of 70." in html


def test_a_history_is_a_plain_sequence_to_who_does_not_ask_more() -> None:
    some = (event("used", 2), event("used", 1))
    assert tuple(History(some, (), 9)) == some and not History((), (), 0)
