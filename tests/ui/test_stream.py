"""The Stream panel without a browser: what is streamed, shown, stopped, continued, downloaded and
refused."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.evaluation.journal import Journal
from latentmem.evaluation.protocols import run_stream
from latentmem.evaluation.results import ONE, Learned, Result
from latentmem.records import LatentmemError, Problem, Status, Step
from latentmem.settings import Settings
from latentmem.ui import build
from latentmem.ui.api import Endpoints
from latentmem.ui.panels import stream
from latentmem.ui.panels import stream as streaming
from latentmem.ui.panels.stream import ALL, Stream, StreamView
from latentmem.ui.session import AppSession
from latentmem.ui.views import stream as views_stream
from latentmem.ui.views.stream import Feed
from tests.evaluation.test_metrics import result
from tests.evaluation_samples import Cast, FakeSystem, data, fake_cast
from tests.fake_engine import FakeEngine
from tests.ui_samples import BOTH, held, pressed, settle, streamed, text_of, visitor


@pytest.fixture
def session(tmp_path: Path) -> AppSession:
    return AppSession(FakeEngine(Settings(bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]


def feed_of(session: AppSession) -> Feed:
    feed = session.visit(visitor()).runs["stream"].scene
    assert isinstance(feed, Feed)
    return feed


# ---------- a stream from its start to its end
def test_a_stream_grows_and_ends_with_results_to_download(session: AppSession) -> None:
    pictures = streamed(session)
    first, last = pictures[0], pictures[-1]
    assert first.press_button["interactive"] is False and first.stop_button["interactive"] is True
    assert "Done: 6 problems answered." in text_of(last.status)
    assert last.press_button["interactive"] is True
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


def test_problems_are_shown_one_by_one_with_what_was_learnt(session: AppSession) -> None:
    last = streamed(session)[-1]
    assert [key for key, _ in last.recent] == [f"problem-{i}" for i in range(5, -1, -1)]
    newest = last.recent[0][1]
    assert "correct answer" in newest
    assert "Latent memories" in newest
    assert "with “a memory”, similarity 0.75" in newest
    assert "Nothing learnt: toys leave no soft prompt" in newest


def test_the_truth_reaches_no_system(session: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Problem] = []
    for name in ("reply", "learn"):
        old = getattr(FakeSystem, name)
        monkeypatch.setattr(
            FakeSystem,
            name,
            lambda self, those, *a, _old=old: seen.extend(those) or _old(self, those, *a),
        )
    streamed(session)
    assert len(seen) == 18 and all(p.answer is None for p in seen)


def test_both_forms_of_the_model_alone_are_two_lines(session: AppSession) -> None:
    last = streamed(session, systems=["vote", "zero_shot", "icl_raw"], size=2)[-1]
    assert [line["name"] for line in last.curve["data"]] == [
        "Alone, one attempt",
        "Alone, vote of eight",
        "Past problem in the context",
    ]
    assert (
        len({(line["line"]["dash"], line["marker"]["symbol"]) for line in last.curve["data"]}) == 3
    ), "not colour alone"


# ---------- stop, go on, begin again
def test_a_stopped_stream_goes_on_where_it_was_and_ends_the_same(
    session: AppSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = AppSession(FakeEngine(Settings(bank=tmp_path / "other" / "bank.sqlite")))  # type: ignore[arg-type]
    whole = Path(streamed(other)[-1].download["value"]).read_text()
    with monkeypatch.context() as m:
        reached, go = held(m, after=3)
        pictures = pressed(Stream, session, visitor(), "change", None, BOTH, 6, 0)
        next(pictures)
        threading.Thread(target=lambda: list(pictures), daemon=True).start()
        assert reached.wait(20)
        stopped = Stream(session).stop(visitor())
        assert "Stopped after 3 problems of 6. Press Go on" in text_of(stopped.status)
        assert stopped.press_button["value"] == "Go on"
        assert stopped.download["visible"]
        assert stopped.again["visible"]
        go.set()
        settle(session)
    assert 7 <= len(feed_of(session).results) < 12
    last = streamed(session)[-1]
    assert "Done: 6 problems answered." in text_of(last.status)
    assert Path(last.download["value"]).read_text() == whole


def test_a_stream_is_still_there_after_the_app_was_started_again(
    session: AppSession, replies: list[str], tmp_path: Path
) -> None:
    one = streamed(session)[-1]
    assert len(replies) == 12
    again = AppSession(FakeEngine(Settings(bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]
    last = streamed(again)[-1]
    assert last.curve == one.curve and len(replies) == 12 and "Done" in text_of(last.status)


def test_begin_again_forgets_what_there_was(session: AppSession, replies: list[str]) -> None:
    streamed(session)
    replies.clear()
    streamed(session)
    assert replies == []
    streamed(session, again=True)
    assert len(replies) == 12


def test_stop_before_the_first_reply_says_so(session: AppSession) -> None:
    assert "Stopped before it began." in text_of(Stream(session).stop(visitor()).status)


# ---------- uploads and what is wrong
def test_an_uploaded_set_is_checked_line_by_line(session: AppSession, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    long = "x" * (session.engine.settings.max_problem_chars + 1)
    lines = [
        '{"problem": "What is 4 + 1?", "answer": "5"}',
        "{broken",
        json.dumps({"problem": long, "answer": 1}),
        json.dumps({"problem": "What is <img src=x onerror=alert(1)> 9?", "answer": "<b>"}),
    ]
    file.write_text("\n".join(lines))
    last = streamed(session, file=file, size=6)[-1]
    said = text_of(last.status)
    assert "Left out 2" in said
    assert "line 2 is not JSON" in said
    assert "line 3: the problem has 4001 characters" in said
    assert "Done: 2 problems answered." in said
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
    session: AppSession, change: dict[str, Any], words: str
) -> None:
    last = streamed(session, **change)[-1]
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
    session: AppSession, tmp_path: Path, text: str, words: str
) -> None:
    (tmp_path / "mine.jsonl").write_text(text)
    assert words in text_of(streamed(session, file=tmp_path / "mine.jsonl")[-1].status)


def test_a_bug_shows_no_traceback(session: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(FakeSystem, "reply", broken)
    said = text_of(streamed(session)[-1].status)
    assert "secret" not in said and "server&#39;s log" in said


def test_a_shared_app_keeps_a_visitors_stream_apart_and_short(tmp_path: Path) -> None:
    session = AppSession(FakeEngine(Settings(hosted=True, bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]
    one, two = session.at(visitor("one")), session.at(visitor("two"))
    assert "choose 1 to 6" in text_of(streamed(one, size=7, who=visitor("one"))[-1].status)
    assert "Done" in text_of(streamed(one, size=2, who=visitor("one"))[-1].status)
    assert not (tmp_path / "home" / "streams").exists()
    data = streaming.all_of(one, "change", None, 0)
    assert streaming.home(one, data, BOTH, 0) != streaming.home(two, data, BOTH, 0)


# ---------- views
def test_families_are_bands_behind_the_curves() -> None:
    kinds = ["ages", "ages", "change", "ages"]
    layout = views_stream.accuracy_figure([result("a", "elm", True)], 4, kinds)["layout"]
    bands = [(s["x0"], s["x1"], s["fillcolor"]) for s in layout["shapes"]]
    assert [band[:2] for band in bands] == [(0.5, 2.5), (2.5, 3.5), (3.5, 4.5)]
    assert bands[0][2] == bands[2][2] != bands[1][2], "a family keeps its colour"
    names = [(a["text"], a["x"]) for a in layout["annotations"][1:]]
    assert names == [("ages", 1.5), ("change", 3.0), ("ages", 4.0)]
    many = views_stream.accuracy_figure([result("a", "elm", True)], 60, ["a", "b"] * 30)["layout"]
    assert len(many["annotations"]) == 1 and len(many["shapes"]) == 60


def test_a_vote_of_eight_is_chosen_at_first(session: AppSession) -> None:
    last = streamed(session, systems=list(streaming.AT_FIRST), size=2)[-1]
    assert [line["name"] for line in last.curve["data"]] == [
        "Alone, one attempt",
        "Alone, vote of eight",
        "Latent memories",
    ]
    assert last.curve["layout"]["shapes"] == [], "one family needs no bands"


def test_before_the_first_stream_the_panel_says_what_it_does() -> None:
    words = str(views_stream.empty())
    assert "one at a time" in words and "{&#34;problem&#34;" in words and "correct answers" in words


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
        and "the memory&#39;s answer was taken" in page
    )
    assert "&lt;i&gt;taxi" in page and "&lt;u&gt;" in page and "✗ wrong" in page


def test_results_of_all_families_are_mixed(session: AppSession) -> None:
    data = streaming.all_of(session, ALL, None, 1)
    assert len({p.source for p in data.problems[:30]}) > 5
    assert (
        data == streaming.all_of(session, ALL, None, 1) != streaming.all_of(session, ALL, None, 2)
    )


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


# ---------- more problems, fewer, and other choices
def lines(picture: StreamView) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(picture.download["value"]).read_text().splitlines()]


def test_a_longer_stream_keeps_what_a_shorter_one_has(
    session: AppSession, replies: list[str], tmp_path: Path
) -> None:
    streamed(session, size=4)
    assert len(replies) == 8
    last = streamed(session, size=6)[-1]
    assert len(replies) == 12 and "Done: 6 problems answered." in text_of(last.status), (
        "only the two that are new were asked"
    )
    other = AppSession(FakeEngine(Settings(bank=tmp_path / "other" / "bank.sqlite")))  # type: ignore[arg-type]
    at_once = streamed(other, size=6)[-1]
    assert last.curve == at_once.curve

    def sorted_lines(picture: StreamView) -> list[str]:
        return sorted(json.dumps(x) for x in lines(picture))

    assert sorted_lines(last) == sorted_lines(at_once)


def test_a_shorter_stream_shows_the_first_of_a_longer_one_and_loses_nothing(
    session: AppSession, replies: list[str]
) -> None:
    whole = streamed(session, size=6)[-1]
    part = streamed(session, size=2)[-1]
    assert "Done: 2 problems answered." in text_of(part.status) and len(replies) == 12
    assert all(line["x"] == [1, 2] for line in part.curve["data"]) and len(lines(part)) == 6
    assert streamed(session, size=6)[-1].curve == whole.curve and len(replies) == 12


def given(session: AppSession, **named: Any) -> tuple[Any, Any]:
    choices = {"chosen": "change", "file": None, "systems": BOTH, "size": 6, "seed": 0} | named
    return Stream(session).offered(visitor(), *choices.values())


def test_the_buttons_say_what_they_would_do_with_the_choices(
    session: AppSession, tmp_path: Path
) -> None:
    assert given(session)[0]["value"] == "Start" and given(session)[1]["visible"] is False
    streamed(session, size=2)
    assert given(session)[0]["value"] == "Go on" and given(session)[1]["visible"] is True
    assert given(session, size=2)[0]["value"] == "Start", "it is whole"
    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "What is 4 + 1?", "answer": "5"}')
    for other in (
        {"seed": 1},
        {"systems": ["elm"]},
        {"chosen": ALL},
        {"file": str(file)},
        {"seed": None},
        {"size": 900},
        {"systems": []},
        {"chosen": "nothing"},
        {"file": str(tmp_path / "none.jsonl")},
    ):
        press, again = given(session, **other)
        assert press["value"] == "Start" and again["visible"] is False, other
    posed = session.visit(visitor())
    Stream(session).press(visitor(), "change", None, BOTH, 6, 0)
    assert posed.busy("stream") and given(session) == (gr.skip(), gr.skip()), (
        "while it goes on the buttons are Stop's"
    )


def test_every_control_tells_when_it_is_touched() -> None:
    app = build(FakeEngine())  # type: ignore[arg-type]
    fns = [f for f in app.fns.values() if f.name == "offered"]
    touched = {(app.blocks[block].label, event) for f in fns for block, event in f.targets}
    assert touched == {
        ("Topic", "input"),
        ("Systems", "input"),
        ("Problems", "input"),
        ("Seed", "input"),
        *(
            ("or a file of problems and answers (JSONL, CSV, Parquet)", event)
            for event in ("upload", "clear", "delete")
        ),
    }


# ---------- a stream that cannot go on
def on_device(name: str) -> Any:
    def cast(*asked: Any) -> Any:
        specs, config = fake_cast(*asked)
        return specs, config | {"made": {"device": name}}

    return cast


def test_a_stream_of_another_device_can_be_begun_again(
    session: AppSession, monkeypatch: pytest.MonkeyPatch, replies: list[str]
) -> None:
    monkeypatch.setattr(stream, "enter_systems", on_device("cpu"))
    streamed(session, size=2)
    monkeypatch.setattr(stream, "enter_systems", on_device("cuda"))
    stuck = streamed(session, size=2)[-1]
    said = text_of(stuck.status)
    assert (
        "The folder of this stream holds a run with device = cpu, and here it is cuda: press "
        "Begin again" in said
    )
    assert "--out" not in said and str(session.engine.settings.bank.parent) not in said
    assert stuck.again["visible"] is True
    assert stuck.press_button["value"] == "Start"
    assert stuck.download["visible"] is False
    again = Stream(session).restored(session, session.visit(visitor()))["again"]
    assert again["visible"] is True, "after a reload, too"
    assert "Done: 2 problems answered." in text_of(streamed(session, size=2, again=True)[-1].status)
    assert len(replies) == 8


def test_what_another_process_writes_to_is_not_forgotten(session: AppSession) -> None:
    from filelock import FileLock

    streamed(session, size=2)
    [results] = (session.engine.settings.bank.parent / "streams").rglob("results.jsonl")
    before = results.read_bytes()
    with FileLock(results.with_name(".lock")):
        for again in (False, True):
            said = text_of(streamed(session, size=2, again=again)[-1].status)
            assert (
                "Another run is writing to the folder of this stream: wait for it, or choose "
                "another seed." in said
            )
    assert results.read_bytes() == before
    assert "Done" in text_of(streamed(session, size=2, again=True)[-1].status)


def test_the_same_set_under_another_name_is_another_stream(
    session: AppSession, tmp_path: Path, replies: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name stands in what a run is, which a folder is not continued with another of."""

    def named(engine: Any, systems: Any, data: Any, folder: Path) -> Any:
        specs, config = fake_cast(engine, systems, data, folder)
        return specs, config | {"data": data.name}

    monkeypatch.setattr(stream, "enter_systems", named)
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text('{"problem": "What is 4 + 1?", "answer": "5"}')
        assert "Done: 1 problem answered." in text_of(
            streamed(session, file=tmp_path / f"{name}.jsonl")[-1].status
        )
    assert len(replies) == 4


def test_a_damaged_stream_can_be_begun_again(session: AppSession) -> None:
    streamed(session, size=2)
    [results] = (session.engine.settings.bank.parent / "streams").rglob("results.jsonl")
    results.write_bytes(b'{"no": "line"}\n' + results.read_bytes())
    stuck = streamed(session, size=2)[-1]
    said = text_of(stuck.status)
    assert "results.jsonl, line 1 is not a line of results" in said and "press Begin again" in said
    assert stuck.again["visible"] is True and given(session, size=2)[1]["visible"] is True
    assert "Done" in text_of(streamed(session, size=2, again=True)[-1].status)


FULL = OSError(errno.ENOSPC, "No space left on device")
ROOM = (
    "cannot be written (No space left on device): make room there or let this program write "
    "there, then start again"
)


def test_no_remedy_is_one_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedies, said = streaming.REMEDIES, []

    def refused(
        words: str, folder: Path, work: Callable[[Journal], object] = bool, config: Any = None
    ) -> None:
        with (
            pytest.raises(LatentmemError) as error,
            Journal(folder, config or {"seed": 1}, remedies) as journal,
        ):
            work(journal)
        said.append(str(error.value))
        assert words in said[-1]

    def met(journal: Journal) -> None:
        list(run_stream([Cast().spec("elm", (ONE,), memories=True)], data(3), journal))

    home = tmp_path / "run"
    (tmp_path / "file").write_text("in the way")
    refused(
        "The folder of this stream cannot be made (File exists): make room there", tmp_path / "file"
    )
    with Journal(home, {"seed": 1}, remedies) as journal:
        met(journal)
        refused(
            "Another run is writing to the folder of this stream: wait for it, or choose another "
            "seed.",
            home,
        )
    refused(
        "The folder of this stream holds a run with seed = 1, and here it is 2: "
        f"{streaming.AGAIN}.",
        home,
        config={"seed": 2},
    )
    lines = (home / "results.jsonl").read_text().splitlines(keepends=True)
    (home / "results.jsonl").write_text("".join(line for line in lines if '"elm/one/' not in line))
    refused(
        "The folder of this stream has no replies of elm (one) to problem 1, from which it has "
        f"learnt since: {streaming.AGAIN}.",
        home,
        met,
    )
    (home / "results.jsonl").write_text("no line\n" + "".join(lines))
    refused("results.jsonl, line 1 is not a line of results", home)
    (home / "results.jsonl").write_text(
        lines[0].replace('"place": 0', '"place": "first"').replace('"index": 0', '"index": "x"')
        + "".join(lines)
    )
    refused("results.jsonl, line 1 is not a line of results", home)
    assert [one.endswith(f": {streaming.AGAIN}.") for one in said[-2:]] == [True, True]
    (home / "run.json").write_text("{")
    refused("run.json cannot be read", home)
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(FULL))
    refused(f"run.json {ROOM}", tmp_path / "other")
    (tmp_path / "other" / "run.json").write_text('{"seed": 1}')
    refused(f"results.jsonl {ROOM}", tmp_path / "other", met)
    assert not [one for one in said if "--out" in one or str(tmp_path) in one]


def test_a_client_is_told_a_remedy_of_its_own(
    session: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "enter_systems", on_device("cpu"))
    streamed(session, size=2)
    monkeypatch.setattr(stream, "enter_systems", on_device("cuda"))
    with pytest.raises(gr.Error, match=r"here it is cuda: .*fresh=true") as caught:
        list(Endpoints(session).stream("change", BOTH, 2, 0, request=visitor()))
    assert "--out" not in str(caught.value)
    *_, last = Endpoints(session).stream("change", BOTH, 2, 0, fresh=True, request=visitor())
    assert last["whole"]
