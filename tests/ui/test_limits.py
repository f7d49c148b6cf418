"""What the server refuses: long requests, uploads beyond the quota, more calls than are fair. And
what it writes into its log."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from latentmem.ui import build, hosting, launch_options, limits
from latentmem.ui.session import Visit
from tests.fake_engine import FakeEngine
from tests.fuzz_samples import damaged, twisted
from tests.ui.test_hosting import shared_engine
from tests.ui_samples import ANN


async def _length(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(len(await request.body())))


@pytest.fixture
def client() -> TestClient:
    routes = [Route(path, _length, methods=["POST"]) for path in ("/call", "/gradio_api/upload")]
    options = limits.server_options()
    app = Starlette(routes=[*routes, *options["routes"]], middleware=options["middleware"])
    return TestClient(app)


def test_a_short_request_and_an_upload_pass(client: TestClient) -> None:
    assert client.post("/call", content=b"x" * 1000).text == "1000"
    assert client.post("/call", content=b"x" * limits.MOST_BODY).status_code == 200
    long = b"x" * (limits.MOST_BODY + 1)
    assert client.post("/gradio_api/upload", content=long).text == str(len(long))


@pytest.mark.parametrize("named", [True, False])
def test_a_long_request_is_refused_in_one_sentence(client: TestClient, named: bool) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * (limits.MOST_BODY // 10)

    answer = client.post("/call", content=b"x" * (limits.MOST_BODY + 1) if named else parts())
    assert answer.status_code == 413
    assert answer.text == "The request is longer than 1048576 bytes: send less, or upload a file."


def test_the_server_says_that_it_lives(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


# ---------- a shared app, through its server
SECRET = "What only this visitor knows: 3 + 4?"
MANY = [None] * 8  # the other values of solve


class Shared:
    """A server of a shared app, and a program that calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        engine = shared_engine(hosted_queue=8)
        self.app = build(engine)
        _, url, _ = self.app.launch(prevent_thread_lock=True, quiet=True, **launch_options(engine))
        self.http = httpx.Client(base_url=f"{url}gradio_api/", timeout=60)

    def call(self, name: str, *data: Any, page: str = "") -> httpx.Response:
        who = {"session_hash": page} if page else {}
        return self.http.post(f"call/{name}", json={"data": list(data), **who})

    def answer(self, name: str, joined: httpx.Response) -> str:
        return self.http.get(f"call/{name}/{joined.json()['event_id']}").text

    def upload(self, size: int) -> httpx.Response:
        return self.http.post("upload", files={"files": ("a.zip", os.urandom(size))})

    def kept(self) -> int:
        return sum(f.stat().st_size for f in self.folder.rglob("*") if f.is_file())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        patch.setenv("LATENTMEM_BANK", str(folder / "bank.sqlite"))
        server = Shared(folder)
        yield server
        server.http.close()
        server.app.close(verbose=False)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever uses the model takes until the end of the test."""
    go, old = threading.Event(), FakeEngine.answer

    def slow(self: FakeEngine, *args: Any, **how: Any) -> Iterator[Any]:
        go.wait(30)
        yield from old(self, *args, **how)

    monkeypatch.setattr(FakeEngine, "answer", slow)
    yield
    go.set()


def test_nobody_takes_all_places(shared: Shared, busy: None) -> None:
    def solve(page: str) -> httpx.Response:
        return shared.call("solve", ANN, "auto", *MANY, page=page)

    flood = [solve("flood") for _ in range(limits.MODEL_OF_PAGE + 3)]
    said = [r.status_code for r in flood]
    assert said == [200] * limits.MODEL_OF_PAGE + [429] * 3
    assert flood[-1].json() == {
        "detail": "4 calls of this page wait or are at work: wait for one to end."
    }
    assert "Bo has" in shared.answer("memories", shared.call("memories", "Bo", None)), (
        "what is quick has a queue of its own"
    )
    assert solve("another").status_code == 429, "half of the places is what an address may take"
    assert solve("another").json()["detail"].startswith("4 calls from your address wait")
    visits = shared.app.latentmem_session
    assert visits.full(Request({"type": "http", "client": ["127.0.0.1", 1]}))
    assert not visits.full(Request({"type": "http", "client": ["192.0.2.7", 1]}))


def test_calls_that_do_not_queue_are_counted(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AT_ONCE", 0)
    direct = shared.http.post("run/predict", json={"data": [], "fn_index": 0})
    assert direct.status_code == 429
    assert direct.text == "0 calls from your address are at work: wait for one to end."


def test_uploads_have_a_quota_and_go_with_their_visitor(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shared.kept()
    monkeypatch.setattr(limits, "OF_VISITOR", 250_000)
    monkeypatch.setattr(limits, "OF_ADDRESS", 350_000)
    paths = [shared.upload(100_000).json()[0] for _ in range(3)]
    refused = shared.upload(100_000)
    assert refused.status_code == 429 and refused.text.startswith("The uploads of your address")
    assert shared.kept() == before + 300_000

    def bring(path: str) -> httpx.Response:
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        return shared.call("import_bank", file, page="owner")

    for path in paths[:2]:
        assert "is damaged or not a latentmem archive" in shared.answer("import_bank", bring(path))
    third = bring(paths[2])
    assert third.status_code == 429 and "Your uploads take" in third.json()["detail"]
    assert shared.kept() == before + 200_000, "what nobody may use is not kept"
    shared.app.latentmem_session.visits.leave("owner")
    assert shared.kept() == before and shared.upload(100_000).status_code == 200


def test_an_upload_that_nobody_uses_or_that_broke_off_is_not_kept(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "UNCLAIMED", 0.0)
    shared.upload(10)
    before = shared.kept()

    def broken() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        yield bytes(400_000)
        raise ConnectionError

    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(ConnectionError):
        shared.http.post("upload", content=broken(), headers=kind)
    deadline = time.monotonic() + 20
    while shared.kept() <= before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert shared.kept() > before, "a part of it came"
    monkeypatch.setattr(limits, "OF_ADDRESS", 300_000)
    while shared.upload(10).status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert shared.kept() <= before + 20


def test_what_gradio_keeps_of_a_page_goes_with_its_visitor(shared: Shared) -> None:
    states = shared.app.state_holder.session_data
    visits = shared.app.latentmem_session.visits
    most = visits.most
    try:
        visits.most = 5
        for i in range(12):
            shared.answer("memories", shared.call("memories", "", None, page=f"page{i}"))
        there = [name for name in states if name.startswith("page")]
        assert there == [f"page{i}" for i in range(7, 12)]
        visits.leave("page11")
        assert "page11" not in states
    finally:
        visits.most = most


def test_of_refused_pages_gradio_keeps_few_and_of_visitors_all(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradio makes the state of a page before a call is let in, and of 1000 it drops the oldest."""
    monkeypatch.setattr(limits, "STRANGERS", 3)
    shared.answer("memories", shared.call("memories", "", None, page="guest"))
    states, holder = shared.app.state_holder.session_data, shared.app.state_holder
    for i in range(8):
        assert shared.call("no_such", page=f"stranger{i}").status_code == 500
    strangers = [name for name in states if name.startswith("stranger")]
    assert strangers == ["stranger5", "stranger6", "stranger7"] and "guest" in states
    assert not list(states["guest"].components), "400 KiB that nothing here reads"
    assert len(dict.keys(holder.time_last_used)) == 0


def test_gradio_does_not_count_calls_for_a_page_that_is_off(shared: Shared) -> None:
    queue = shared.app._queue
    for _ in range(3):
        shared.answer("memories", shared.call("memories", "", None, page="counted"))
    assert len(queue.event_analytics) <= 1 and not queue.cached_event_analytics_summary["functions"]


def test_answers_that_nobody_fetches_go_with_their_visitor(shared: Shared) -> None:
    """Gradio would keep those of 2,000 pages."""
    queue, visits = shared.app._queue, shared.app.latentmem_session.visits
    calls = [shared.call("memories", "", None, page=f"lazy{i}") for i in range(2)]
    deadline = time.monotonic() + 20
    while queue.event_ids_to_events and time.monotonic() < deadline:
        time.sleep(0.02)
    kept = {i: queue.pending_messages_per_session[f"lazy{i}"] for i in range(2)}
    assert all("Bo has" in str(list(messages._queue)) for messages in kept.values())
    visits.leave("lazy0")
    assert "Bo has" not in str(list(kept[0]._queue))
    assert limits.GONE in shared.answer("memories", calls[0])
    assert "Bo has" in shared.answer("memories", calls[1])


def test_a_page_that_fetches_no_answer_is_refused(shared: Shared) -> None:
    queue = shared.app._queue
    for _ in range(limits.UNREAD):
        last = shared.call("memories", "", None, page="deaf")
        assert last.status_code == 200
        while queue.event_ids_to_events:
            time.sleep(0.01)
    refused = shared.call("memories", "", None, page="deaf")
    assert refused.status_code == 429 and "has not fetched its last 20" in refused.text
    shared.answer("memories", last)
    assert shared.call("memories", "", None, page="deaf").status_code == 200


def test_the_same_file_of_two_visitors_stays_until_both_are_gone(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 64) / "bank.zip"
    path.parent.mkdir()
    path.write_bytes(b"zip")
    uploads, visits = limits.Uploads(tmp_path), [Visit(), Visit()]
    for visit in visits:
        uploads.end(uploads.begin("here", 3), [str(path)])
        body = json.dumps({"data": [str(path)], "session_hash": "page"}).encode()
        uploads.claim(body, lambda name, visit=visit: visit)
    visits[0].free()
    assert path.exists()
    visits[1].free()
    assert not path.parent.exists() and uploads._kept == []


@pytest.mark.parametrize("queued", [True, False])
def test_a_call_with_too_few_values_leaves_nothing_in_the_log(
    shared: Shared, capfd: pytest.CaptureFixture[str], queued: bool
) -> None:
    """Gradio prints the values that came, with a traceback."""
    if queued:
        said = [shared.call("solve", SECRET).text]
        said += [shared.answer("memories", shared.call("memories", SECRET))]
    else:
        some = next(i for i, fn in shared.app.fns.items() if not fn.queue and len(fn.inputs) > 1)
        body = {"data": [SECRET], "fn_index": some, "session_hash": "page"}
        said = [shared.http.post("run/predict", json=body).text]
    assert all("The call has 1 values and needs" in text for text in said), said
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed and "Traceback" not in printed


@pytest.mark.parametrize("path", ["call/v2/NAME", "call/NAME", "queue/join"])
def test_a_request_that_fails_is_a_sentence_and_a_line_without_texts(
    shared: Shared, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    body = {"data": [SECRET], "fn_index": 99_999 if path == "queue/join" else None}
    answer = shared.http.post(path.replace("NAME", "SECRET"), json=body | {"session_hash": SECRET})
    assert answer.status_code == 500
    assert answer.text == "The server could not answer this request."
    (record,) = caplog.records
    line = json.loads(hosting.WithoutTexts().format(record))
    assert "SECRET" not in str(line) and SECRET not in str(line)
    assert line["message"] == "a request failed" and line["error"] in (
        "KeyError",
        "FnIndexInferError",
    )
    assert line["at"][-1].startswith("route") and line["level"] == "error"


def test_a_bug_in_a_handler_is_told_without_texts(
    shared: Shared, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def bug(*args: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr("latentmem.ui.api.to_dict", bug)
    with caplog.at_level(logging.ERROR):
        said = shared.answer("memories", shared.call("memories", "", None))
    assert "Something went wrong inside latentmem" in said and SECRET not in said
    lines = [hosting.WithoutTexts().format(r) for r in caplog.records]
    assert len(lines) == 1
    assert SECRET not in lines[0]
    assert json.loads(lines[0])["error"] == "RuntimeError"


PATHS = (
    "call/NAME",
    "call/v2/NAME",
    "run/predict",
    "queue/join",
    "api/NAME",
    "component_server",
    "cancel",
)
BODY = {
    "data": [SECRET],
    "fn_index": 1,
    "session_hash": SECRET,
    "event_data": None,
    "trigger_id": 1,
}


@given(st.data())
def test_fuzz_a_request(shared: Shared, capfd: Any, data: st.DataObject) -> None:
    """Any body at any of gradio's addresses: an answer, and neither its text nor a traceback in
    the log."""
    name = data.draw(st.sampled_from(["solve", "memories", "keep", "SECRET"]))
    path = data.draw(st.sampled_from(PATHS)).replace("NAME", name)
    if data.draw(st.booleans()):
        body = json.dumps(data.draw(twisted(BODY))).encode()
    else:
        body = data.draw(damaged(json.dumps(BODY).encode()))
    answer = shared.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code < 600
    printed = "".join(capfd.readouterr())
    assert SECRET not in printed and "Traceback" not in printed, printed
