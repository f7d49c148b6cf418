"""The page of a memory, its history and the tables, as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import pytest

from latentmem.bank import Bank
from latentmem.bank import notes as bank_notes
from latentmem.bank.notes import Note
from latentmem.model.vocabulary import Word
from latentmem.records import Event, Problem
from latentmem.ui.map import handlers, panel_state
from latentmem.ui.panels.solve import Solve
from latentmem.ui.views import html as views
from latentmem.ui.views import memory
from latentmem.ui.views import receipt as views_receipt
from tests.bank_samples import make_memory
from tests.fake_engine import FakeEngine, fill_bank
from tests.memory_samples import asks, click, shop_session
from tests.ui.test_views import NASTY, Tags
from tests.ui_samples import asked, text_of, visitor


def made(
    text: str = "Ann has 3 cats. How many legs?", source: str = "pets"
) -> tuple[FakeEngine, Any]:
    engine = FakeEngine()
    fill_bank(engine, [Problem(text, source=source), Problem("Bo has dogs", source="b")])
    return engine, engine.bank.get(
        next(i.id for i in engine.bank.infos() if i.problem.source == source)
    )


def event(kind: str, day: int = 3, **changes: Any) -> Event:
    return replace(
        Event("m1", kind, "p1", "r1", created=f"2026-01-{day:02d}T10:00:00+00:00"), **changes
    )  # type: ignore[arg-type]


def page_of(text: str) -> list[list[str]]:
    engine, m = made(text, source=text)
    engine.bank.record(Event(m.id, "helped", text[:5], text[:9], {"problem": text}))
    bank_notes.add_note(engine.bank, m.id, text)
    rows = [[Word(1, text, 0.5)]]
    infos = engine.bank.infos()
    info, tags = engine.bank.info(m.id), {m.id: (text[:9],)}
    return [
        *memory.head(m, info, tags[m.id], trust=text),
        *memory.body(
            m,
            info,
            engine.bank.events(m.id),
            engine.neighbours(m.id),
            notes=bank_notes.notes(engine.bank)[m.id],
            parameters=10**9,
        ),
        *memory.words_table(rows),
        *memory.selected(infos, m.id, tags),
        *memory.found_table(infos, infos, tags=tags),
        *memory.no_page(infos),
    ]


@pytest.mark.parametrize("text", [t for t in NASTY if t != "\ud800"])
def test_foreign_text_is_escaped_on_every_page(text: str) -> None:
    found, plain = Tags(text_of(page_of(text))), Tags(text_of(page_of("plain")))
    assert set(found.tags) <= set(plain.tags) and found.attributes <= plain.attributes
    assert not found.open and text in found.text


def test_the_page_says_what_the_memory_is() -> None:
    engine, m = made()
    info = engine.bank.info(m.id)
    text = Tags(
        text_of(
            memory.head(m, info, ("keep",), trust="It is on probation.")
            + memory.body(
                m,
                info,
                [],
                [],
                notes=(Note("e1", "odd", "2026-01-02T03:04"),),
                parameters=630_000_000,
            )
        )
    ).text
    size = m.soft_prompt.size
    for part in (
        m.problem.text,
        m.label,
        "of 8 attempts agreed",
        "keep",
        "odd",
        "It is on probation.",
        f"{size} numbers",
        f"{4 * size:,}".replace(",", " "),
        "of its 630 million parameters",
        "fake-model",
        m.model[:16],
        "Kept after step",
        "learning rate",
        "Nobody has said yet",
    ):
        assert part in text, part
    assert [k for k, _ in memory.size_words(20, 896, None)] == ["Size"]
    share = memory.size_words(20, 896, 630_000_000)[1][1]
    assert share.startswith("0.0028\N{NO-BREAK SPACE}%")


def test_an_open_page_is_told_from_none() -> None:
    engine, m = made()
    assert f'data-address="{m.id}"' in text_of(memory.head(m, engine.bank.info(m.id)))
    assert 'data-address=""' in text_of(memory.no_page((), closed=True))
    assert "data-address" not in text_of(memory.no_page())
    glance = Tags(text_of(memory.no_page(engine.bank.infos()))).text
    assert "Memories2" in glance and "Made by fake-model (2)" in glance


def test_the_attempts_of_its_vote_are_there_or_it_says_that_they_were_not_stored() -> None:
    _, m = made()
    html = str(memory._traces(m))
    assert html.count('<details class="attempt ') == len(m.traces)
    assert "were not stored" in memory._traces(replace(m, traces=()))


def test_what_a_memory_learnt_is_how_far_each_token_moved_from_its_start() -> None:
    engine, m = made()
    moved = panel_state.moves(engine, m)  # type: ignore[arg-type]
    start = engine.model.text_prompt("", 20).numpy()
    far = np.linalg.norm(m.soft_prompt[0] - start[0]) / np.linalg.norm(start[0])
    assert len(moved) == 20 and moved[0][1] == pytest.approx(float(far))
    html = str(memory.learnt(m, moved))
    began = f"It started as “{m.settings['init_text']}” and moved by"
    assert began in html and html.count("<li>") == 20
    assert html.count("width:100.0%") == 1, "the one that moved most"
    engine.shared["ready"] = False
    assert panel_state.moves(engine, m) == [] != memory.learnt(m, [])  # type: ignore[arg-type]
    assert memory.learnt(replace(m, settings={"imported": "x"}), moved) == ""


def test_what_layer_vectors_learnt_is_the_size_of_each() -> None:
    engine, m = made()
    m = replace(m, soft_prompt=np.ones((3, 1, m.soft_prompt.shape[1]), np.float32))
    sizes = panel_state.moves(engine, m)  # type: ignore[arg-type]
    assert [name for name, _ in sizes] == ["layer 1", "layer 2", "layer 3"]
    scale = engine.model.layer_scale().flatten().tolist()
    assert [size for _, size in sizes] == pytest.approx([1 / s for s in scale])
    html = str(memory.learnt(m, sizes))
    assert "A vector for each of 3 layers" in html and html.count("<li>") == 3


def test_two_memories_stand_side_by_side() -> None:
    session = shop_session()
    both = [i.id for i in session.engine.bank.infos()[:2]]
    for ids, told in ((both, True), (both[:1], False)):
        part = handlers.picked(asks(session, data={"ids": ids}))
        assert ("Side by side" in text_of(part.selected)) is told
    html = text_of(handlers.picked(asks(session, data={"ids": both})).selected)
    assert html.count('class="column"') == 2 and "Similarity of the problems: 0." in html


# ------------------------------------------------------------------ history
def test_whom_it_helped_and_hurt_are_links_that_ask_again() -> None:
    problem = "What is 100 % of \\frac{1}{2} & more?"
    events = [
        event("helped", detail={"problem": problem}),
        event("hurt", receipt_id="r2"),
        event("used"),
    ]
    html = str(memory.verdicts(events, {"p1": "From the bank"}.get))
    link = html.split('href="?problem=')[1].split('"')[0]
    assert unquote(link) == problem and "&amp; more?" in html and "r1" in html and "r2" in html
    assert "From the bank" in html and html.count("<li") == 2
    assert "problem <code>p1</code>" in memory.verdicts([event("hurt")]), (
        "a text nobody knows is not made up"
    )


def test_an_event_with_a_kept_receipt_opens_it() -> None:
    kept = {"r2": "What was asked <b>then</b>"}
    events = [
        event("helped", detail={"problem": "Old one"}),
        event("hurt", receipt_id="r2"),
        event("used", receipt_id="r2"),
    ]
    html = str(memory.verdicts(events, {"p1": "From the bank"}.get, kept))
    assert html.count("data-receipt=") == 1
    assert 'href="?memory=m1&amp;receipt=r2" data-receipt="r2"' in html
    assert "What was asked &lt;b&gt;then" in html and "From the bank" not in html, (
        "what was asked is in the receipt"
    )
    assert html.count('href="?problem=') == 1 and "Old one" in html, (
        "one without a receipt asks again"
    )
    listed = str(memory.event_list(events, kept=kept))
    assert listed.count('data-receipt="r2"') == 2
    assert "<code>r1</code>" in listed
    assert 'data-receipt="r1"' not in listed


def stored(text: str, back: str = "") -> tuple[Any, str]:
    engine, m = made()
    receipt = list(engine.answer(Problem(text)))[-1]
    return receipt, text_of(
        views_receipt.stored_receipt(engine.bank.receipt(receipt.id), engine.bank.info(m.id), back)
    )


def test_a_stored_receipt_has_a_way_back_and_says_what_was_cut() -> None:
    receipt, html = stored("Ann has 4 cats. How many legs?", "m1")
    assert f'<h3 tabindex="-1" data-focus="{receipt.id}"' in html
    assert 'data-memory="m1">Back to the memory' in html
    text = Tags(html).text
    for part in (
        receipt.problem.text,
        receipt.route.reason,
        receipt.id,
        "Ask this problem again",
        "The first 200 characters",
    ):
        assert part in text, part
    assert f'href="?problem={quote(receipt.problem.text, safe="")}"' in html
    _, html = stored("Ann has 4 cats. How many legs?")
    assert 'data-memory="">Close the receipt' in html and "Back to the memory" not in html


@pytest.mark.parametrize("text", [t for t in NASTY if t != "\ud800"])
def test_foreign_text_is_escaped_in_a_stored_receipt(text: str) -> None:
    found, plain = Tags(stored(text, text)[1]), Tags(stored("plain", "plain")[1])
    assert set(found.tags) <= set(plain.tags) and found.attributes <= plain.attributes
    assert not found.open and text in found.text


def test_a_receipt_without_a_memory_says_why() -> None:
    receipt, _ = stored("Ann has 4 cats. How many legs?")
    gone, alone = (
        text_of(views_receipt.no_memory(r)) for r in (receipt, replace(receipt, used=None))
    )
    assert "no longer in the bank" in gone and "without a memory" in alone
    assert f'data-address="" data-receipt-open="{receipt.id}"' in gone


def test_the_list_of_events_is_short_and_counts_all() -> None:
    many = [event("used", receipt_id=f"r{i}") for i in range(70)]
    html = str(memory.event_list(many))
    assert html.count("<li>") == memory.EVENTS_SHOWN and "70 events, the newest 50 shown" in html
    some = [
        event("tag", detail={"tag": "x", "on": False}),
        event("feedback", detail={"correct": True}),
    ]
    told = Tags(str(memory.event_list(some)))
    assert "taken away: x" in told.text and "feedback: right" in told.text


def told(*events: Event) -> str:
    return str(memory.verdicts(events))


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
    html = told(
        *(
            event("feedback", receipt_id=f"r{n}", detail={"correct": v})
            for n, v in enumerate(verdicts)
        )
    )
    assert words in html and "Nobody has said" not in html and "<ul" not in html


def test_without_a_verdict_it_says_so() -> None:
    assert "Nobody has said yet" in told() == told(event("used"), event("retrieved"))


def test_other_verdicts_are_told_below_those_that_decided() -> None:
    right, wrong = {"correct": True}, {"correct": False}
    html = told(
        event("helped"),
        event("feedback", detail=right),
        event("feedback", receipt_id="r2", detail=wrong),
    )
    assert html.count("<li") == 1
    assert "Of the other answers for which it was tried, 1 was judged wrong" in html
    assert "other answers" not in told(event("hurt"), event("feedback", detail=wrong))


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
    assert "1 was judged right; the model alone gave the same answer" in page
    assert "Nobody has said" not in page


def test_however_many_answers_came_since_all_verdicts_are_read() -> None:
    bank = Bank()
    name = bank.put(make_memory(0))
    told = [
        Event(name, kind, f"p{n}", f"r{n}", {"correct": n != 1})  # type: ignore[arg-type]
        for n, kind in enumerate(("helped", "hurt", "feedback", "note", "tag"))
    ]
    since = [Event(name, kind, "p", f"s{n}") for n in range(400) for kind in ("retrieved", "used")]  # type: ignore[arg-type]
    bank.record_all(told + since)
    past = bank.events(name)
    assert "805 events, the newest 50 shown" in memory.event_list(past)
    html = str(memory.verdicts(past))
    assert html.count("<li") == 2 and "1 was judged right" in html


def test_a_long_list_of_verdicts_says_how_many_there_are() -> None:
    html = told(*(event("helped") for _ in range(70)))
    assert html.count("<li") == memory.EVENTS_SHOWN and "The newest 50 of 70." in html


# ------------------------------------------------------------------ tables
def test_the_table_can_be_ticked_and_says_what_it_shows() -> None:
    engine, m = made()
    infos = engine.bank.infos()
    table, found = memory.found_table, [i for i in infos if i.id == m.id]
    html = text_of(table(infos, found, m.id, {m.id: ("keep", "old")}))
    assert html.count("data-pick=") == 1
    assert 'class="chosen" aria-current="true"' in html
    assert "1 of 2 memories" in html
    assert "Select the 1 found" in html
    assert "keep" in html
    assert "Select all" in text_of(table(infos, infos))
    long = text_of(table(infos * 60, infos * 60))
    assert long.count("<tr data-id") == memory.SHOWN and "The newest 100 are shown" in long


def test_the_selected_have_a_mean() -> None:
    engine, _ = made()
    infos = engine.bank.infos()
    mean = sum(i.majority_ratio for i in infos) / 2
    html = text_of(memory.selected(infos))
    assert "2 memories selected" in html
    assert f"Mean agreement {views.percent(mean)}" in html
    assert "1 pets" in html
    assert memory.selected(()) == []


def test_the_nearest_words_show_their_blanks_and_their_caveat() -> None:
    rows = [[Word(1, " the", 0.71), Word(2, "\n", 0.5)], [Word(3, "", 0.1), Word(4, "\x07", 0.1)]]
    html = text_of(memory.words_table(rows))
    assert "␣the" in html
    assert "⏎" in html
    assert "(nothing)" in html
    assert "0.71" in html
    assert "only neighbours" in html
    assert memory.words_table([]) == []
