"""The Stream panel, once more: longer and shorter streams, other choices, and streams that cannot
go on."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.evaluation.journal import Journal
from latentmem.evaluation.protocols import run_stream
from latentmem.evaluation.results import ONE
from latentmem.records import LatentmemError
from latentmem.settings import Settings
from latentmem.ui import build
from latentmem.ui.api import Endpoints
from latentmem.ui.panels import stream
from latentmem.ui.panels import stream as streaming
from latentmem.ui.panels.stream import ALL, Stream, StreamView
from latentmem.ui.session import AppSession
from tests.evaluation_samples import Cast, data, fake_cast
from tests.fake_engine import FakeEngine
from tests.ui.test_ui_stream import (  # noqa: F401 (some are fixtures)
    BOTH,
    asked,
    desk,
    streamed,
    without_a_model,
)
from tests.ui_samples import text_of, visitor


# ------------------------------------------------------------------ more problems, fewer, and other choices
def lines(picture: StreamView) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(picture.download["value"]).read_text().splitlines()]


def test_a_longer_stream_keeps_what_a_shorter_one_has(
    desk: AppSession, asked: list[str], tmp_path: Path
) -> None:
    streamed(desk, size=4)
    assert len(asked) == 8
    last = streamed(desk, size=6)[-1]
    assert len(asked) == 12 and "Done: 6 problems met." in text_of(last.status), (
        "only the two that are new were asked"
    )
    other = AppSession(FakeEngine(Settings(bank=tmp_path / "other" / "bank.sqlite")))  # type: ignore[arg-type]
    at_once = streamed(other, size=6)[-1]
    assert last.curve == at_once.curve

    def sorted_lines(picture: StreamView) -> list[str]:
        return sorted(json.dumps(x) for x in lines(picture))

    assert sorted_lines(last) == sorted_lines(at_once)


def test_a_shorter_stream_shows_the_first_of_a_longer_one_and_loses_nothing(
    desk: AppSession, asked: list[str]
) -> None:
    whole = streamed(desk, size=6)[-1]
    part = streamed(desk, size=2)[-1]
    assert "Done: 2 problems met." in text_of(part.status) and len(asked) == 12
    assert all(line["x"] == [1, 2] for line in part.curve["data"]) and len(lines(part)) == 6
    assert streamed(desk, size=6)[-1].curve == whole.curve and len(asked) == 12


def given(desk: AppSession, **named: Any) -> tuple[Any, Any]:
    choices = {"chosen": "change", "file": None, "systems": BOTH, "size": 6, "seed": 0} | named
    return Stream(desk).offered(visitor(), *choices.values())


def test_the_buttons_say_what_they_would_do_with_the_choices(
    desk: AppSession, tmp_path: Path
) -> None:
    assert given(desk)[0]["value"] == "Start" and given(desk)[1]["visible"] is False
    streamed(desk, size=2)
    assert given(desk)[0]["value"] == "Go on" and given(desk)[1]["visible"] is True
    assert given(desk, size=2)[0]["value"] == "Start", "it is whole"
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
        press, again = given(desk, **other)
        assert press["value"] == "Start" and again["visible"] is False, other
    posed = desk.visit(visitor())
    Stream(desk).press(visitor(), "change", None, BOTH, 6, 0)
    assert posed.busy("stream") and given(desk) == (gr.skip(), gr.skip()), (
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


# ------------------------------------------------------------------ a stream that cannot go on
def on_device(name: str) -> Any:
    def cast(*asked: Any) -> Any:
        specs, config = fake_cast(*asked)
        return specs, config | {"made": {"device": name}}

    return cast


def test_a_stream_of_another_device_can_be_begun_again(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    monkeypatch.setattr(stream, "enter_systems", on_device("cpu"))
    streamed(desk, size=2)
    monkeypatch.setattr(stream, "enter_systems", on_device("cuda"))
    stuck = streamed(desk, size=2)[-1]
    said = text_of(stuck.status)
    assert (
        "The folder of this stream holds a run with device = cpu, and here it is cuda: press "
        "Begin again" in said
    )
    assert "--out" not in said and str(desk.engine.settings.bank.parent) not in said
    assert (
        stuck.again["visible"] is True
        and stuck.press_button["value"] == "Start"
        and stuck.download["visible"] is False
    )
    again = Stream(desk).restored(desk, desk.visit(visitor()))["again"]
    assert again["visible"] is True, "after a reload, too"
    assert (
        "Done: 2 problems met." in text_of(streamed(desk, size=2, again=True)[-1].status)
        and len(asked) == 8
    )


def test_what_another_process_writes_to_is_not_forgotten(desk: AppSession) -> None:
    from filelock import FileLock

    streamed(desk, size=2)
    [results] = (desk.engine.settings.bank.parent / "streams").rglob("results.jsonl")
    before = results.read_bytes()
    with FileLock(results.with_name(".lock")):
        for again in (False, True):
            said = text_of(streamed(desk, size=2, again=again)[-1].status)
            assert (
                "Another run is writing to the folder of this stream: wait for it, or choose "
                "another seed." in said
            )
    assert results.read_bytes() == before
    assert "Done" in text_of(streamed(desk, size=2, again=True)[-1].status)


def test_the_same_set_under_another_name_is_another_stream(
    desk: AppSession, tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name stands in what a run is, which a folder is not continued with another of."""

    def named(engine: Any, systems: Any, data: Any, folder: Path) -> Any:
        specs, config = fake_cast(engine, systems, data, folder)
        return specs, config | {"data": data.name}

    monkeypatch.setattr(stream, "enter_systems", named)
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text('{"problem": "What is 4 + 1?", "answer": "5"}')
        assert "Done: 1 problem met." in text_of(
            streamed(desk, file=tmp_path / f"{name}.jsonl")[-1].status
        )
    assert len(asked) == 4


def test_a_damaged_stream_can_be_begun_again(desk: AppSession) -> None:
    streamed(desk, size=2)
    [results] = (desk.engine.settings.bank.parent / "streams").rglob("results.jsonl")
    results.write_bytes(b'{"no": "line"}\n' + results.read_bytes())
    stuck = streamed(desk, size=2)[-1]
    said = text_of(stuck.status)
    assert "results.jsonl, line 1 is not a line of results" in said and "press Begin again" in said
    assert stuck.again["visible"] is True and given(desk, size=2)[1]["visible"] is True
    assert "Done" in text_of(streamed(desk, size=2, again=True)[-1].status)


FULL = OSError(errno.ENOSPC, "No space left on device")
ROOM = (
    "cannot be written (No space left on device): make room there or let this program write "
    "there, then start again"
)


def test_no_remedy_is_one_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remedies, said = streaming.remedies_of("AGAIN"), []

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
        "The folder of this stream holds a run with seed = 1, and here it is 2: AGAIN.",
        home,
        config={"seed": 2},
    )
    lines = (home / "results.jsonl").read_text().splitlines(keepends=True)
    (home / "results.jsonl").write_text("".join(line for line in lines if '"elm/one/' not in line))
    refused(
        "The folder of this stream has no replies of elm (one) to problem 1, from which it has "
        "learnt since: AGAIN.",
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
    assert [one.endswith(": AGAIN.") for one in said[-2:]] == [True, True]
    (home / "run.json").write_text("{")
    refused("run.json cannot be read", home)
    monkeypatch.setattr("os.fsync", lambda number: (_ for _ in ()).throw(FULL))
    refused(f"run.json {ROOM}", tmp_path / "other")
    (tmp_path / "other" / "run.json").write_text('{"seed": 1}')
    refused(f"results.jsonl {ROOM}", tmp_path / "other", met)
    assert not [one for one in said if "--out" in one or str(tmp_path) in one]


def test_a_client_is_told_its_own_remedy(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "enter_systems", on_device("cpu"))
    streamed(desk, size=2)
    monkeypatch.setattr(stream, "enter_systems", on_device("cuda"))
    with pytest.raises(gr.Error, match="here it is cuda: ask with fresh=true") as caught:
        list(Endpoints(desk).stream("change", BOTH, 2, 0, request=visitor()))
    assert "--out" not in str(caught.value)
    *_, last = Endpoints(desk).stream("change", BOTH, 2, 0, fresh=True, request=visitor())
    assert last["whole"]
