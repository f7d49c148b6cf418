"""The Stream panel without a browser: what is streamed, shown, stopped, taken up again, downloaded
and refused."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from latentmem.evaluation.results import Learned, Result
from latentmem.records import Problem, Status, Step
from latentmem.settings import Settings
from latentmem.ui.panels import stream
from latentmem.ui.panels import stream as streaming
from latentmem.ui.panels.stream import ALL, Stream, StreamView
from latentmem.ui.session import AppSession
from latentmem.ui.views import stream as views_stream
from latentmem.ui.views.stream import Feed
from tests.evaluation.test_metrics import result
from tests.evaluation_samples import FakeSystem, fake_cast
from tests.fake_engine import FakeEngine
from tests.ui_samples import pressed, settle, text_of, visitor

BOTH = ["zero_shot", "elm"]


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "enter_systems", fake_cast)


@pytest.fixture
def desk(tmp_path: Path) -> AppSession:
    return AppSession(FakeEngine(Settings(bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]


def streamed(
    desk: AppSession,
    chosen: str = "change",
    file: Path | None = None,
    systems: Any = BOTH,
    size: float = 6,
    seed: float = 0,
    who: Any = None,
    again: bool = False,
) -> list[StreamView]:
    who = who or visitor()
    pictures = list(
        pressed(
            Stream, desk, who, chosen, str(file) if file else None, systems, size, seed, again=again
        )
    )
    settle(desk, who)
    return pictures


def feed_of(desk: AppSession) -> Feed:
    feed = desk.visit(visitor()).runs["stream"].scene
    assert isinstance(feed, Feed)
    return feed


# ------------------------------------------------------------------ a stream from its start to its end
def test_a_stream_grows_and_ends_with_results_to_download(desk: AppSession) -> None:
    pictures = streamed(desk)
    first, last = pictures[0], pictures[-1]
    assert first.press_button["interactive"] is False and first.stop_button["interactive"] is True
    assert (
        "Done: 6 problems met." in text_of(last.status) and last.press_button["interactive"] is True
    )
    assert [line["name"] for line in last.curve["data"]] == [
        "Alone, one attempt",
        "Latent memories",
    ]
    assert all(line["x"] == [1, 2, 3, 4, 5, 6] for line in last.curve["data"])
    lines = [json.loads(line) for line in Path(last.download["value"]).read_text().splitlines()]
    assert [x["record"] for x in lines].count("Result") == 12 and [
        x["record"] for x in lines
    ].count("Learned") == 6
    right = sum(x["correct"] for x in lines if x.get("system") == "elm" and x["record"] == "Result")
    assert f"<td>{right} of 6</td>" in text_of(last.table)
    assert last.curve["data"][1]["y"][-1] == right / 6
    json.dumps([p._asdict() for p in pictures])


def test_problems_are_shown_one_by_one_with_what_was_learnt(desk: AppSession) -> None:
    last = streamed(desk)[-1]
    assert [key for key, _ in last.recent] == [f"problem-{i}" for i in range(5, -1, -1)]
    newest = last.recent[0][1]
    assert (
        "true answer" in newest
        and "Latent memories" in newest
        and "with “a memory”, similarity 0.75" in newest
    )
    assert "Nothing learnt: toys leave no soft prompt" in newest


def test_the_truth_reaches_no_system(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Problem] = []
    for name in ("reply", "learn"):
        old = getattr(FakeSystem, name)
        monkeypatch.setattr(
            FakeSystem,
            name,
            lambda self, those, *a, _old=old: seen.extend(those) or _old(self, those, *a),
        )
    streamed(desk)
    assert len(seen) == 18 and all(p.answer is None for p in seen)


def test_both_forms_of_the_model_alone_are_two_lines(desk: AppSession) -> None:
    last = streamed(desk, systems=["vote", "zero_shot", "icl_raw"], size=2)[-1]
    assert [line["name"] for line in last.curve["data"]] == [
        "Alone, one attempt",
        "Alone, vote of eight",
        "Past problem in the context",
    ]
    assert (
        len({(line["line"]["dash"], line["marker"]["symbol"]) for line in last.curve["data"]}) == 3
    ), "not colour alone"


# ------------------------------------------------------------------ stop, go on, begin again
def held(monkeypatch: pytest.MonkeyPatch, after: int) -> tuple[threading.Event, threading.Event]:
    """(reached, go): elm's reply to the problem after `after` waits for `go`."""
    reached, go, old, count = threading.Event(), threading.Event(), FakeSystem.reply, [0]

    def reply(self, those, mode):
        count[0] += self.name == "elm"
        if self.name == "elm" and count[0] == after + 1:
            reached.set()
            go.wait(20)
        yield from old(self, those, mode)

    monkeypatch.setattr(FakeSystem, "reply", reply)
    return reached, go


def test_a_stopped_stream_goes_on_where_it_was_and_ends_the_same(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = AppSession(FakeEngine(Settings(bank=tmp_path / "other" / "bank.sqlite")))  # type: ignore[arg-type]
    whole = Path(streamed(other)[-1].download["value"]).read_text()
    with monkeypatch.context() as m:
        reached, go = held(m, after=3)
        pictures = pressed(Stream, desk, visitor(), "change", None, BOTH, 6, 0)
        next(pictures)
        threading.Thread(target=lambda: list(pictures), daemon=True).start()
        assert reached.wait(20)
        stopped = Stream(desk).stop(visitor())
        assert "Stopped after 3 problems of 6. Press Go on" in text_of(stopped.status)
        assert (
            stopped.press_button["value"] == "Go on"
            and stopped.download["visible"]
            and stopped.again["visible"]
        )
        go.set()
        settle(desk)
    assert 7 <= len(feed_of(desk).results) < 12
    last = streamed(desk)[-1]
    assert "Done: 6 problems met." in text_of(last.status)
    assert Path(last.download["value"]).read_text() == whole


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of a system for each of its replies."""
    found: list[str] = []
    old = FakeSystem.reply
    monkeypatch.setattr(
        FakeSystem,
        "reply",
        lambda self, those, mode: found.append(self.name) or old(self, those, mode),
    )
    return found


def test_a_stream_is_still_there_after_the_app_was_started_again(
    desk: AppSession, asked: list[str], tmp_path: Path
) -> None:
    one = streamed(desk)[-1]
    assert len(asked) == 12
    again = AppSession(FakeEngine(Settings(bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]
    last = streamed(again)[-1]
    assert last.curve == one.curve and len(asked) == 12 and "Done" in text_of(last.status)


def test_begin_again_forgets_what_there_was(desk: AppSession, asked: list[str]) -> None:
    streamed(desk)
    asked.clear()
    streamed(desk)
    assert asked == []
    streamed(desk, again=True)
    assert len(asked) == 12


def test_stop_before_the_first_reply_says_so(desk: AppSession) -> None:
    assert "Stopped before it began." in text_of(Stream(desk).stop(visitor()).status)


# ------------------------------------------------------------------ uploads and what is wrong
def test_an_uploaded_set_is_checked_line_by_line(desk: AppSession, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    long = "x" * (desk.engine.settings.max_problem_chars + 1)
    lines = [
        '{"problem": "What is 4 + 1?", "answer": "5"}',
        "{broken",
        json.dumps({"problem": long, "answer": 1}),
        json.dumps({"problem": "What is <img src=x onerror=alert(1)> 9?", "answer": "<b>"}),
    ]
    file.write_text("\n".join(lines))
    last = streamed(desk, file=file, size=6)[-1]
    said = text_of(last.status)
    assert (
        "Left out 2" in said
        and "line 2 is not JSON" in said
        and "line 3: the problem has 4001 characters" in said
    )
    assert "Done: 2 problems met." in said
    page = text_of(last.recent) + said
    assert "<img" not in page and "&lt;img" in page and "&lt;b&gt;" in page


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"systems": []}, "No system is chosen"),
        ({"systems": None}, "No system is chosen"),
        ({"chosen": "nothing"}, "There are no examples of &#39;nothing&#39;"),
        ({"size": 0}, "0 problems cannot be streamed"),
        ({"size": float("nan")}, "nan problems cannot be streamed"),
        ({"seed": -1}, "Seed -1 does not fit"),
        ({"seed": None}, "Seed None does not fit"),
        ({"seed": float("nan")}, "Seed nan does not fit"),
        ({"size": 201}, "choose 1 to 200"),
    ],
)
def test_what_a_visitor_can_mend_is_one_sentence(
    desk: AppSession, change: dict[str, Any], words: str
) -> None:
    last = streamed(desk, **change)[-1]
    assert words in text_of(last.status) and 'role="alert"' in text_of(last.status)
    assert last.press_button["interactive"] is True and last.download["visible"] is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mine.jsonl has no problem with an answer"),
        ('{"problem": "What?"}', "line 1: the problem has no answer"),
    ],
)
def test_a_useless_file_is_one_sentence(
    desk: AppSession, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "mine.jsonl").write_text(text)
    assert words in text_of(streamed(desk, file=tmp_path / "mine.jsonl")[-1].status)


def test_a_bug_shows_no_traceback(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(FakeSystem, "reply", broken)
    said = text_of(streamed(desk)[-1].status)
    assert "secret" not in said and "server&#39;s log" in said


def test_a_shared_app_keeps_a_visitors_stream_apart_and_short(tmp_path: Path) -> None:
    desk = AppSession(FakeEngine(Settings(hosted=True, bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]
    one, two = desk.at(visitor("one")), desk.at(visitor("two"))
    assert "choose 1 to 6" in text_of(streamed(one, size=7, who=visitor("one"))[-1].status)
    assert "Done" in text_of(streamed(one, size=2, who=visitor("one"))[-1].status)
    assert not (tmp_path / "home" / "streams").exists()
    data = streaming.data_of(one, "change", None, 2, 0)
    assert streaming.home(one, data, BOTH, 0) != streaming.home(two, data, BOTH, 0)


# ------------------------------------------------------------------ views
def test_before_the_first_stream_the_panel_says_what_it_does() -> None:
    words = str(views_stream.empty())
    assert "one at a time" in words and "{&#34;problem&#34;" in words and "true answers" in words


def test_the_feed_folds_records_together() -> None:
    feed = Feed(total=2)
    assert not feed.add(Status("Reading")) and feed.status == Status("Reading")
    assert not feed.add(Step(2, 5, "1", 0.75, (), 0, 0, 0, 1, 1, 0, 1, 1, 1))
    assert "step 2 of 5, 75\N{NO-BREAK SPACE}% agree" in feed.status.text
    assert feed.add(result("a", "zero_shot", True)) and feed.add(
        Learned("", "elm", 0, (), (), None)
    )  # type: ignore[arg-type]
    assert feed.met == 1 and not feed.whole
    feed.add(result("b", "elm", False))
    assert {s.system: s.n for s in feed.standings()} == {"zero_shot": 1, "elm": 1}


def test_a_wrong_label_and_the_side_that_was_taken_are_said() -> None:
    from latentmem.evaluation.results import Cost, Taught

    r = result(
        "a",
        "elm",
        False,
        alone=True,
        memory=False,
        chosen="memory",
        memory_name="<i>taxi",
        similarity=0.5,
    )
    feed = Feed(
        1,
        results=[r],
        texts={"a": "Why <u>not</u>?"},
        learned=[Learned("", "elm", 0, ("a",), (Taught("a", "m1", "kept", "7", False),), Cost())],
    )
    page = text_of(views_stream.recent(feed))
    assert (
        "Learnt a memory: kept Its label was wrong." in page
        and "the memory&#39;s side was taken" in page
    )
    assert "&lt;i&gt;taxi" in page and "&lt;u&gt;" in page and "✗ wrong" in page


def test_results_of_all_families_are_mixed(desk: AppSession) -> None:
    data = streaming.data_of(desk, ALL, None, 30, 1)
    assert len({p.source for p in data.problems}) > 5 and data == streaming.data_of(
        desk, ALL, None, 30, 1
    )
    assert data != streaming.data_of(desk, ALL, None, 30, 2)


def test_the_entrants_behind_the_boxes() -> None:
    found = {
        e.name: ([f.name for f in e.modes], e.learns)
        for e in streaming.entered([n for _, n in streaming.SYSTEMS], None)
    }
    assert found == {
        "zero_shot": (["one", "vote"], ""),
        "icl_raw": (["one"], "online"),
        "elm": (["one"], "online"),
    }
    assert isinstance(result("a", "b", True), Result)
