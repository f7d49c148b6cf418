"""A bank out of one's own problems, without a browser: what a file holds, which votes are fit, what
is kept, and how a stopped run goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentmem.engine.build import Outcome, summary
from latentmem.records import LatentmemError, Problem, Step, Trace
from latentmem.settings import Settings
from latentmem.ui.pace import Pace
from latentmem.ui.panels import build
from latentmem.ui.panels.build import Build, BuildView
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
from tests.ui_samples import BO, SETTINGS, pressed, settle, text_of, visitor

TRAINING = (5, 1e-3, 20, None, None)  # those of the memories that are there
CHOSEN = (*SETTINGS, *TRAINING)
MINE = [f"Zoe sorts {n} shells into {n + 2} boxes. How many fit?" for n in range(3, 7)]
SAME = "A unanimous vote: what is 2 and 2?"  # the engine learns nothing from it


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "mine.txt"
    made.write_text("\n".join([*MINE, SAME, BO, ""]))
    return made


def dropped(session: AppSession, file: Path, who: Any = None) -> BuildView:
    return Build(session).look(str(file), who or visitor())


def ran(session: AppSession, who: Any = None, given: tuple[Any, ...] = CHOSEN) -> BuildView:
    who = who or visitor()
    *_, last = pressed(Build, session, who, *given)
    settle(session, who)
    return last


# ---------- a file
def test_a_plain_text_has_a_problem_a_line_or_a_blank_line_between_two(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("\ufeffWhat is 2?\n  What is 3?  \n\nWhat is 3?\n".replace("\n\n", "\n"))
    found, notes = build.read(file, 100, 20)
    assert [p.text for p in found] == ["What is 2?", "What is 3?"] and notes == ()
    assert {p.source for p in found} == {"mine"} and all(p.answer is None for p in found)
    file.write_text("Ann has 2.\nHow many?\n \nBo has 3.\nHow many?")
    assert [p.text for p in build.read(file, 100, 20)[0]] == [
        "Ann has 2.\nHow many?",
        "Bo has 3.\nHow many?",
    ]


def test_a_table_needs_no_answers_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = ['{"question": "What is 2?"}', "{broken", f'{{"problem": "{"x" * 101}"}}']
    lines += [f'{{"problem": "What is {n}?", "source": "sums"}}' for n in range(3, 9)]
    file.write_text("\n".join(lines))
    found, notes = build.read(file, 100, 4)
    assert [p.text for p in found] == ["What is 2?", "What is 3?", "What is 4?", "What is 5?"]
    assert found[1].source == "sums" and "Left out 2" in notes[0] and "not JSON" in notes[0]
    assert "more than 100 characters" in notes[0]
    assert notes[1] == "The file has 7 problems: the first 4 are taken."


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"", "a.txt has no problem to learn from"),
        ("a.txt", b"\xff\xfeab\xff", "a.txt is not UTF-8 text"),
        ("a.jsonl", b"{broken", "line 1 is not JSON"),
        ("a.csv", b"%PDF-1", "is a PDF"),
        ("a.txt", b"x" * 1_000_001, "more than 1 MB"),
    ],
)
def test_a_useless_file_is_one_sentence(
    session: AppSession, tmp_path: Path, name: str, data: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(data)
    shown = dropped(session, tmp_path / name)
    assert words in text_of(shown.status) and 'role="alert"' in text_of(shown.status)
    assert shown.table == [] and shown.press_button["interactive"] is False
    with pytest.raises(LatentmemError):
        build.read(tmp_path / name, 4000, 20)


# ---------- votes, then memories
def test_a_file_becomes_a_bank(session: AppSession, file: Path) -> None:
    shown = dropped(session, file)
    assert shown.press_button["value"] == "Vote on 6 problems" and len(session.engine.bank) == 2
    assert "6 problems to vote on" in text_of(shown.status) and "Zoe sorts 3" in text_of(
        shown.table
    )
    voted = ran(session)
    rows = session.visit(visitor()).runs["build"].scene.rows
    fit = [row for row in rows if row.open]
    assert voted.press_button["value"] == f"Learn from {len(fit)}" and len(fit) > 2
    assert f"{len(fit)} of 6 problems can be learnt from" in text_of(voted.status)
    assert len(session.engine.bank) == 2, "a vote stores nothing"
    assert rows[5].known and "in the bank already" in text_of(voted.table)
    last = ran(session)
    learnt = [row for row in rows if row.memory and not row.known]
    assert len(session.engine.bank) == 2 + len(learnt) and len(learnt) == len(fit) - 1
    assert {session.engine.bank.info(row.memory).problem.source for row in learnt} == {"mine"}
    said = text_of(last.status)
    assert f"{len(learnt)} of 6 problems learnt and kept on the map" in said
    assert "1 was in the bank already" in said and "1 was tried and taught nothing" in said
    assert "All traces agree" in text_of(last.table) and "learnt: open it" in text_of(last.table)
    assert last.press_button["interactive"] is False and last.press_button["value"] == "Done"


def test_a_stopped_run_keeps_what_it_has_and_goes_on(session: AppSession, file: Path) -> None:
    dropped(session, file)
    ran(session)
    pictures = pressed(Build, session, visitor(), *CHOSEN)
    rows = session.visit(visitor()).runs["build"].scene.rows
    todo = sum(row.open for row in rows)
    for _ in pictures:
        if sum(row.open for row in rows) < todo:
            break
    stopped = Build(session).stop(visitor())
    settle(session)
    left = sum(row.open for row in rows)
    assert 0 < left < todo and "Stopped." in text_of(stopped.status)
    kept = len(session.engine.bank)
    assert kept == 2 + sum(bool(row.memory) and not row.known for row in rows)
    last = ran(session)
    assert not any(row.open for row in rows) and last.press_button["interactive"] is False
    assert len({i.problem.text for i in session.engine.bank.infos()}) == len(session.engine.bank)


def test_other_settings_ask_for_other_votes(session: AppSession, file: Path) -> None:
    dropped(session, file)
    ran(session)
    rows = session.visit(visitor()).runs["build"].scene.rows
    first = [row.vote for row in rows]
    again = ran(session, given=(*SETTINGS[:4], 7, *SETTINGS[5:], *TRAINING))
    assert [row.vote for row in rows[:5]] != first[:5] and "Learn from" in str(again.press_button)
    assert len(session.engine.bank) == 2


def test_a_reload_finds_the_problems_again(session: AppSession, file: Path) -> None:
    dropped(session, file)
    visit = session.visit(visitor())
    assert "Zoe sorts 3" in text_of(Build(session).restored(session, visit)["table"])
    Build(session).press(visitor(), *CHOSEN)
    waiting = Build(session).restored(session, visit)
    assert "Zoe sorts 3" in text_of(waiting["table"]) and "Waiting" in text_of(waiting["status"])


def test_a_shared_app_takes_a_few_and_keeps_them_apart(file: Path) -> None:
    session = AppSession(FakeEngine(Settings(hosted=True, steps=5)))  # type: ignore[arg-type]
    one = session.at(visitor("one"))
    shown = dropped(one, file, visitor("one"))
    assert "the first 4 are taken" in text_of(shown.status)
    ran(one, visitor("one")), ran(one, visitor("one"))
    assert len(one.engine.bank) > 0 == len(session.engine.bank)


def test_a_foreign_text_stays_text(session: AppSession, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("What is <img src=x onerror=alert(1)> 9?")
    page = text_of(dropped(session, tmp_path / "a.txt").table)
    assert "<img" not in page and "&lt;img" in page


def test_the_summary_names_what_was_not_learnt_and_why() -> None:
    p = Problem("1?")
    rows = [Outcome(p, memory="a"), Outcome(p, memory="b", known=True), Outcome(p, nothing="fell")]
    rows += [Outcome(p, unfit="too close")] * 2
    assert summary(rows, "kept on the map") == (
        "1 of 5 problems learnt and kept on the map; 1 was in the bank already; "
        "2 had no vote to learn from; 1 was tried and taught nothing."
    )


# ---------- how long it will take
def seen(*records: Any) -> Pace:
    pace = Pace()
    for record in records:
        pace.see(record)
    return pace


def test_the_pace_of_the_newest_run_is_the_estimate() -> None:
    settings = Settings(rollouts=8, max_new_tokens=320, steps=10)
    assert Pace().vote(settings) is None and Pace().distil(settings) is None
    pace = seen(Trace(0, "", "1", True, 200, seconds=20.0))
    assert pace.vote(settings) == pytest.approx(20.0)
    assert pace.vote(settings.changed(rollouts=16)) == pytest.approx(30.0)
    assert pace.vote(settings.changed(max_new_tokens=100)) == pytest.approx(10.0)
    assert pace.distil(settings) == pytest.approx(20 * 22)
    pace.see(Step(1, 10, "1", 0.5, (), 0, 0, 0, 1, 1, 0, 1, 10.0, 30.0))
    assert pace.distil(settings, voted=True) == pytest.approx(20 * 41)


def test_every_run_teaches_the_pace(session: AppSession, file: Path) -> None:
    assert session.pace.token == 0
    dropped(session, file)
    shown = ran(session)
    assert session.pace.token > 0 and "about" in text_of(shown.status)


def test_a_run_that_is_left_is_closed(session: AppSession) -> None:
    from latentmem.ui.session import exclusively

    closed: list[bool] = []

    def work() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            closed.append(True)

    stream = exclusively(session, work())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert closed == [True] and session.model_work.acquire(blocking=False)
