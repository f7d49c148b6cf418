"""The endpoint that streams: as a function, through a real server with gradio's own client, and as
an MCP tool."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args
from urllib.request import Request, urlopen

import gradio as gr
import pytest

from latentmem.settings import Settings
from latentmem.ui import api, build, launch_options
from latentmem.ui import api as api_stream
from latentmem.ui.api import Endpoints
from latentmem.ui.panels import stream as streaming
from latentmem.ui.panels.stream import ALL, Stream
from latentmem.ui.runs import Run
from latentmem.ui.session import AppSession
from tests.evaluation_samples import FakeSystem
from tests.fake_engine import FakeEngine
from tests.ui.test_ui_stream import (  # noqa: F401 (some are fixtures)
    BOTH,
    asked,
    held,
    streamed,
    without_a_model,
)
from tests.ui_samples import settle, text_of, visitor


@pytest.fixture
def desk(tmp_path: Path) -> AppSession:
    return AppSession(FakeEngine(Settings(bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]


def test_it_ends_with_what_the_panel_shows(desk: AppSession, tmp_path: Path) -> None:
    *_, last = Endpoints(desk).stream("change", BOTH, 6, 0, request=visitor())
    assert (last["done"], last["total"], last["problems"], last["whole"]) == (12, 12, 6, True)
    other = AppSession(FakeEngine(Settings(bank=tmp_path / "other" / "bank.sqlite")))  # type: ignore[arg-type]
    panel = streamed(other)[-1]
    lines = [json.loads(line) for line in Path(panel.download["value"]).read_text().splitlines()]
    mine = [
        {k: v for k, v in x.items() if k not in ("record", "unit", "of")}
        for x in lines
        if x["record"] == "Result"
    ]
    assert json.loads(json.dumps(last["results"])) == mine and len(last["learned"]) == 6
    for line, one in zip(panel.curve["data"], last["standings"], strict=True):
        assert line["y"][-1] == one["accuracy"] and one["n"] == 6
    assert {"coverage", "routing_accuracy", "right", "tokens", "seconds"} <= set(
        last["standings"][1]
    )


def test_the_standings_come_while_they_grow_and_a_client_that_leaves_stops_it(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    reached, go = held(monkeypatch, after=3)
    answers = Endpoints(desk).stream("change", BOTH, 6, 0, request=visitor())
    seen = [next(answers)]
    while seen[-1]["done"] < 7:  # the eighth reply is held
        seen.append(next(answers))
    assert (
        reached.wait(20)
        and not seen[-1]["whole"]
        and seen[-1]["results"] == [] == seen[-1]["learned"]
    )
    assert [s["n"] for s in seen[-1]["standings"]] == [4, 3] and seen[-1]["doing"]
    visit = desk.visit(visitor())
    visit.seen = 0.0
    assert next(answers)["done"] == 7, (
        "it answers without news, too: only between two answers gradio can cancel it"
    )
    assert visit.seen > 0, "and its client is not forgotten as idle"
    answers.close()
    go.set()
    settle(desk)
    assert len(asked) < 12, "nobody waits for the rest"


def test_it_goes_on_where_the_panel_or_a_call_was_stopped(
    desk: AppSession, asked: list[str]
) -> None:
    streamed(desk, size=6)
    assert len(asked) == 12
    *_, last = Endpoints(desk).stream("change", BOTH, 6, 0, request=visitor("program"))
    assert len(asked) == 12 and last["done"] == 12 and len(last["results"]) == 12, (
        "the same choices are the same stream"
    )
    *_, last = Endpoints(desk).stream("change", BOTH, 6, 0, fresh=True, request=visitor("program"))
    assert len(asked) == 24 and last["done"] == 12


def test_what_is_left_out_is_what_the_panel_begins_with(desk: AppSession) -> None:
    *_, last = Endpoints(desk).stream()
    assert last["problems"] == 8 and [s["system"] for s in last["standings"]] == [
        "zero_shot",
        "elm",
    ]
    data = streaming.data_of(desk, ALL, None, 8, desk.engine.settings.seed)
    assert {r["problem_id"] for r in last["results"]} == {p.id for p in data.problems}
    assert get_args(api_stream.System) == tuple(name for _, name in streaming.SYSTEMS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"systems": []}, "No system is chosen"),
        ({"family": "nothing"}, "There are no examples of 'nothing'"),
        ({"problems": 0}, "0 problems cannot be streamed"),
        ({"problems": 201}, "choose 1 to 200"),
        ({"seed": -1}, "Seed -1"),
    ],
)
def test_mistakes_are_one_sentence(desk: AppSession, given: dict[str, Any], words: str) -> None:
    with pytest.raises(gr.Error, match=words) as caught:
        list(Endpoints(desk).stream(**given, request=visitor()))
    assert "\n" not in str(caught.value)


def test_a_bug_tells_a_client_no_secret(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(FakeSystem, "reply", broken)
    with pytest.raises(gr.Error, match="server's log") as caught:
        list(Endpoints(desk).stream("change", BOTH, 2, request=visitor()))
    assert "secret" not in str(caught.value)


def test_a_shared_app_holds_its_limit_and_keeps_clients_apart(
    tmp_path: Path, asked: list[str]
) -> None:
    desk = AppSession(FakeEngine(Settings(hosted=True, bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]
    one, two = desk.at(visitor("one")), desk.at(visitor("two"))
    with pytest.raises(gr.Error, match="choose 1 to 6"):
        list(Endpoints(one).stream(problems=7, request=visitor("one")))
    assert list(Endpoints(one).stream("change", BOTH, request=visitor("one")))[-1]["problems"] == 6
    list(Endpoints(two).stream("change", BOTH, request=visitor("two")))
    assert len(asked) == 24 and not (tmp_path / "home" / "streams").exists()


def test_stop_on_the_panel_and_the_endpoint_share_a_visitors_run(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = held(monkeypatch, after=1)
    answers = Endpoints(desk).stream("change", BOTH, 6, 0, request=visitor())
    next(answers), next(answers)
    assert reached.wait(20)
    assert "Press Go on" in text_of(Stream(desk).stop(visitor()).status)
    go.set()
    assert list(answers)[-1]["whole"] is False


def test_it_answers_before_anything_is_done_and_can_be_cancelled_then(
    desk: AppSession, asked: list[str]
) -> None:
    answers = Endpoints(desk).stream("change", BOTH, 6, 0, request=visitor())
    first = next(answers)
    assert first["done"] == 0 == first["total"] and not first["whole"] and first["standings"] == []
    answers.close()
    run = desk.visit(visitor()).runs["stream"]
    assert asked == [] and run.thread is None and run.stop.is_set() and not run.pressed


# ------------------------------------------------------------------ through a server
@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    engine = FakeEngine(
        Settings(
            bank=tmp_path_factory.mktemp("home") / "bank.sqlite", mcp=find_spec("mcp") is not None
        )
    )
    app = build(engine)  # type: ignore[arg-type]
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(engine))  # type: ignore[arg-type]
    yield url
    app.close(verbose=False)


@pytest.fixture
def client(address: str) -> Any:
    from gradio_client import Client

    return Client(address, verbose=False)


def test_a_client_sends_a_file_and_hears_of_its_mistakes(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "What is 4 + 1?", "answer": "5"}\n{broken\n')
    job = client.submit(file=handle_file(str(file)), systems=["elm"], api_name="/stream")
    last = job.result(timeout=60)
    assert (
        last == job.outputs()[-1]
        and last["whole"]
        and [r["truth"] for r in last["results"]] == ["5"]
    )
    assert "line 2 is not JSON" in " ".join(last["notes"])
    assert client.predict("change", problems=2, api_name="/stream")["done"] == 4
    for given, words in (
        ({"systems": []}, "No system is chosen"),
        ({"problems": 201}, "choose 1 to 200"),
        ({"family": "nothing"}, "not in the list"),
        ({"systems": ["nothing"]}, "not in the list"),
    ):
        with pytest.raises(Exception, match=words):
            client.predict(**given, api_name="/stream")
    file.write_text("nothing")
    with pytest.raises(Exception, match="mine.jsonl is not JSONL, a JSON array"):
        client.predict(file=handle_file(str(file)), api_name="/stream")


def test_a_client_that_cancels_stops_it(
    client: Any, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    reached, go = held(monkeypatch, after=3)
    runs: list[Run] = []
    new_run = Stream.new_run
    monkeypatch.setattr(Stream, "new_run", lambda *asked: runs.append(new_run(*asked)) or runs[-1])
    job = client.submit("change", systems=BOTH, problems=6, seed=5, api_name="/stream")
    assert reached.wait(60)
    deadline = time.monotonic() + 15
    while (
        not job.outputs() and time.monotonic() < deadline
    ):  # before a first answer gradio has nothing to cancel
        time.sleep(0.05)
    job.cancel()
    while runs[0].watching and time.monotonic() < deadline:  # until gradio has heard of it
        time.sleep(0.05)
    go.set()
    runs[0].thread.join(20)  # type: ignore[union-attr]
    assert runs[0].done and len(asked) < 12
    assert (
        client.predict("change", systems=BOTH, problems=6, seed=5, api_name="/stream")["whole"]
        and len(asked) == 12
    )


def test_a_client_cannot_name_a_file_of_the_server(address: str, tmp_path: Path) -> None:
    """Not through gradio's client, which would send its own file of that name."""
    file = tmp_path / "theirs.jsonl"
    file.write_text('{"problem": "What is 4 + 1?", "answer": "5"}\n')
    given = {"path": str(file), "meta": {"_type": "gradio.FileData"}}
    ends = []
    for one in (None, given):
        data = json.dumps({"data": [ALL, ["zero_shot"], 1, 0, one, False]}).encode()
        call = f"{address}gradio_api/call/stream"
        event = json.loads(
            urlopen(Request(call, data, {"Content-Type": "application/json"}), timeout=60).read()
        )["event_id"]
        ends.append(urlopen(f"{call}/{event}", timeout=60).read().decode())
    assert "event: complete" in ends[0] and "event: error" in ends[1] and "What is 4" not in ends[1]


def test_the_types_are_told(client: Any) -> None:
    told = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/stream"]
    named = {p["parameter_name"]: p for p in told["parameters"]}
    assert list(named) == ["family", "systems", "problems", "seed", "file", "fresh"]
    assert all(p["parameter_has_default"] for p in named.values())
    assert named["systems"]["type"]["items"]["enum"] == list(get_args(api_stream.System))
    assert ALL in named["family"]["type"]["enum"] and "change" in named["family"]["type"]["enum"]
    assert [named[n]["type"]["type"] for n in ("problems", "seed", "fresh")] == [
        "integer",
        "integer",
        "boolean",
    ]
    assert "filepath" in named["file"]["python_type"]["type"]


@pytest.mark.skipif(find_spec("mcp") is None, reason="needs the extra mcp")
def test_every_endpoint_is_an_mcp_tool(address: str) -> None:
    tools = json.loads(urlopen(f"{address}gradio_api/mcp/schema", timeout=20).read())
    names = set(api.ENDPOINTS)
    assert names == {
        n for n in names for t in tools if t["name"] == n or t["name"].endswith(f"_{n}")
    }
    tool = next(t for t in tools if t["name"].endswith("stream"))
    assert "one at a time" in tool["description"]
    assert set(tool["inputSchema"]["properties"]) == {
        "family",
        "systems",
        "problems",
        "seed",
        "file",
        "fresh",
    }
