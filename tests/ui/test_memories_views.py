"""The page of a memory, its steps, its history and the tables, as text."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote, unquote

import pytest

from latentmem.bank import notes as bank_notes
from latentmem.bank.notes import Note
from latentmem.model.vocabulary import Word
from latentmem.records import Event, Problem
from latentmem.ui.views import distillation, memory
from latentmem.ui.views import html as views
from latentmem.ui.views import receipt as views_receipt
from tests.fake_engine import FakeEngine, fill_bank
from tests.ui.test_views import NASTY, Tags
from tests.ui_samples import text_of


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
        *memory.head(m, info, tags[m.id]),
        *memory.body(
            m,
            info,
            engine.bank.events(m.id),
            engine.neighbours(m.id),
            notes=bank_notes.notes(engine.bank)[m.id],
            parameters=(10**9, True),
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
            memory.head(m, info, ("keep",))
            + memory.body(
                m,
                info,
                [],
                [],
                notes=(Note("e1", "odd", "2026-01-02T03:04"),),
                parameters=(630_000_000, True),
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
    assert "about" not in text and "about " in str(memory.size_words(20, 896, (636_000_000, False)))
    assert [k for k, _ in memory.size_words(20, 896, None)] == ["Size"]
    assert memory.size_words(20, 896, (630_000_000, True))[1][1].startswith(
        "0.0028\N{NO-BREAK SPACE}%"
    )


def test_an_open_page_is_told_from_none() -> None:
    engine, m = made()
    assert f'data-address="{m.id}"' in text_of(memory.head(m, engine.bank.info(m.id)))
    assert 'data-address=""' in text_of(memory.no_page((), closed=True))
    assert "data-address" not in text_of(memory.no_page())
    glance = Tags(text_of(memory.no_page(engine.bank.infos()))).text
    assert "Memories2" in glance and "Made by fake-model (2)" in glance


# ------------------------------------------------------------------ steps
def test_the_slider_has_a_panel_for_every_step_and_shows_the_first() -> None:
    _, m = made()
    html = str(distillation.stepper(m))
    assert html.count("data-step=") == len(m.steps) + 1 and f'max="{len(m.steps)}"' in html
    assert html.count(" hidden>") == len(m.steps) and html.count('class="card"') + html.count(
        'class="card '
    ) == len(m.traces)
    text = Tags(html).text
    assert f"Step {m.best_step} of 5, and the soft prompt after it was kept" in text
    assert f"Step {m.best_step + 1} of 5: attempts with the soft prompt that was kept" in text
    assert "Final check after the last step" in text and text.count("was kept") == 2
    last = Tags(str(distillation.stepper(replace(m, best_step=5)))).text
    assert "Final check after the last step: attempts with the soft prompt that was kept" in last
    assert text.count("A memory keeps only the rewards") == len(m.steps), (
        "what is not stored is said, not faked"
    )
    assert "fresh attempts rewarded" in text


def test_without_steps_or_traces_it_says_so() -> None:
    _, m = made()
    html = str(distillation.stepper(replace(m, steps=(), traces=())))
    assert "<input" not in html and "were not stored" in html


def test_rewards_are_marks_with_words() -> None:
    html = str(distillation.rewards((1.0, 0.0, 1.0)))
    assert html.count('class="won"') == 2 and html.count('class="lost"') == 1
    assert 'aria-label="2 of 3 fresh attempts rewarded"' in html
    assert distillation.rewards(()) == ""


# ------------------------------------------------------------------ history
def test_events_over_time_are_bars_that_add_up() -> None:
    events = [event("used", d) for d in (3, 3, 9, 20)] + [
        event("helped", 9),
        event("hurt", 20),
        event("tag", 5),
    ]
    html = str(memory.timeline(events))
    assert "Events over time: 4 tried, 1 helped, 1 hurt" in html and html.count("<rect") == 5
    assert (
        "03 Jan: 2 tried" in html and "09 Jan: 1 tried, 1 helped" in html and "20 Jan 2026" in html
    )
    assert memory.timeline([event("tag")]) == "" == memory.timeline([])


@pytest.mark.parametrize(
    ("last", "bar"),
    [
        ("2026-01-03T23:30:00+00:00", "Jan 23:00"),
        ("2026-02-03T00:00:00+00:00", "03 Feb:"),
        ("2026-08-01T00:00:00+00:00", "week of"),
        ("2028-05-01T00:00:00+00:00", "2028"),
        ("2099-05-01T00:00:00", "2098:"),
    ],
)
def test_the_bars_widen_with_the_time_they_cover(last: str, bar: str) -> None:
    html = str(
        memory.timeline(
            [event("used"), event("used", created=last), event("used", created="nonsense")]
        )
    )
    assert bar in html and html.count("<rect") == 2


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
    assert (
        html.count("data-receipt=") == 1
        and 'href="?memory=m1&amp;receipt=r2" data-receipt="r2"' in html
    )
    assert "What was asked &lt;b&gt;then" in html and "From the bank" not in html, (
        "what was asked is in the receipt"
    )
    assert html.count('href="?problem=') == 1 and "Old one" in html, (
        "one without a receipt asks again"
    )
    listed = str(memory.event_list(events, kept=kept))
    assert (
        listed.count('data-receipt="r2"') == 2
        and "<code>r1</code>" in listed
        and 'data-receipt="r1"' not in listed
    )


def stored(text: str, back: str = "") -> tuple[Any, str]:
    engine, m = made()
    receipt = list(engine.answer(Problem(text)))[-1]
    return receipt, text_of(
        views_receipt.stored_receipt(engine.bank.receipt(receipt.id), engine.bank.info(m.id), back)
    )


def test_a_stored_receipt_has_a_way_back_and_says_what_was_cut() -> None:
    receipt, html = stored("Ann has 4 cats. How many legs?", "m1")
    assert (
        f'<h3 tabindex="-1" data-focus="{receipt.id}"' in html
        and 'data-memory="m1">Back to the memory' in html
    )
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


# ------------------------------------------------------------------ tables
def test_the_table_can_be_ticked_and_says_what_it_shows() -> None:
    engine, m = made()
    infos = engine.bank.infos()
    table, found = memory.found_table, [i for i in infos if i.id == m.id]
    html = text_of(table(infos, found, m.id, {m.id: ("keep", "old")}))
    assert (
        html.count("data-pick=") == 1
        and 'class="chosen" aria-current="true"' in html
        and "1 of 2 memories" in html
    )
    assert (
        "Select the 1 found" in html
        and "keep" in html
        and "Select all" in text_of(table(infos, infos))
    )
    long = text_of(table(infos * 60, infos * 60))
    assert long.count("<tr data-id") == memory.SHOWN and "The newest 100 are shown" in long


def test_the_selected_have_a_mean() -> None:
    engine, _ = made()
    infos = engine.bank.infos()
    mean = sum(i.majority_ratio for i in infos) / 2
    html = text_of(memory.selected(infos))
    assert (
        "2 memories selected" in html
        and f"Mean agreement {views.percent(mean)}" in html
        and "1 pets" in html
    )
    assert memory.selected(()) == []


def test_the_nearest_words_show_their_blanks_and_their_caveat() -> None:
    rows = [[Word(1, " the", 0.71), Word(2, "\n", 0.5)], [Word(3, "", 0.1), Word(4, "\x07", 0.1)]]
    html = text_of(memory.words_table(rows))
    assert (
        "␣the" in html
        and "⏎" in html
        and "(nothing)" in html
        and "0.71" in html
        and "only neighbours" in html
    )
    assert memory.words_table([]) == []
