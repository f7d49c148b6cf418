"""The named endpoints, as functions, through a real server with gradio's own client, and as MCP
tools."""

from __future__ import annotations

import json
import threading
import time
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any, get_args
from urllib.request import Request, urlopen

import gradio as gr
import hypothesis
import pytest
from hypothesis import strategies as st

from latentmem.records import LatentmemError
from latentmem.settings import Settings
from latentmem.ui import api, build, launch_options
from latentmem.ui import api as api_stream
from latentmem.ui import app as about
from latentmem.ui.api import Endpoints
from latentmem.ui.panels import stream as streaming
from latentmem.ui.panels.stream import ALL, Stream
from latentmem.ui.runs import SORRY, Run
from latentmem.ui.session import AppSession
from tests.evaluation_samples import FakeSystem
from tests.fake_engine import FakeEngine
from tests.fuzz_samples import ANY_JSON, is_sentence
from tests.ui_samples import ANN, BO, BOTH, held, new_session, settle, streamed, text_of, visitor

# ---------- all of them but the stream


def test_the_endpoints_give_plain_json(session: AppSession) -> None:
    receipt = Endpoints(session).solve(ANN, rollouts=4, request=visitor())
    assert receipt["answer"] and receipt["sentence"] and len(receipt["traces"]) == 8
    assert Endpoints(session).replay(visitor()) == {
        "same": True,
        "receipt": receipt["id"],
        "reason": "",
    }
    assert Endpoints(session).feedback(True, visitor()) == receipt["id"]
    made = Endpoints(session).distil(ANN, steps=2)
    assert made["kept"] and made["memory_id"] in session.engine.bank
    thought = Endpoints(session).think(ANN, made["memory_id"], rollouts=4)
    assert len(thought["traces"]) == 4 and thought["vote"]["total"] == 4
    assert [row["id"] for row in Endpoints(session).memories("Ann has")] == [made["memory_id"]]
    assert Endpoints(session).search(ANN, 2)["hits"][0]["memory_id"] == made["memory_id"]
    assert [h["memory_id"] for h in Endpoints(session).neighbours(made["memory_id"], 1)] != [
        made["memory_id"]
    ]
    assert Endpoints(session).quarantine(made["memory_id"], "x")
    row = Endpoints(session).memory(made["memory_id"])
    assert row["quarantined"]
    assert len(row["steps"]) == 3
    assert row["events"][0]["kind"] == "quarantined"
    Endpoints(session).release(made["memory_id"])
    with pytest.raises(gr.Error, match="whole id"):
        Endpoints(session).delete(made["memory_id"][:6])
    assert Endpoints(session).delete(made["memory_id"]) not in session.engine.bank
    json.dumps([receipt, made, thought, row])


def test_a_receipt_is_found_again_by_its_id_and_by_its_memory(session: AppSession) -> None:
    asked = Endpoints(session).solve(ANN, rollouts=4, request=visitor())
    again = Endpoints(session).receipt(asked["id"])
    for one in (asked, again):
        assert [len(t) for t in (one.pop("traces"),)] == [8]
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(asked))
    tried = asked["used"]["memory_id"]
    assert Endpoints(session).memory(tried)["receipts"] == [asked["id"]]
    assert asked["id"] in {e["receipt_id"] for e in Endpoints(session).memory(tried)["events"]}
    other = next(i.id for i in session.engine.bank.infos() if i.id != tried)
    assert Endpoints(session).memory(other)["receipts"] == []


def test_what_is_not_kept_waits_for_keep_or_discard(session: AppSession) -> None:
    program = Endpoints(session)
    for end, text, size in ((program.keep, ANN, 3), (program.discard, BO, 3)):
        made = program.distil(text, keep=False, request=visitor())
        assert not made["kept"] and len(session.engine.bank) <= size
        assert end(visitor()) and len(session.engine.bank) == size
    with pytest.raises(gr.Error, match="no memory to keep"):
        Endpoints(session).keep(visitor())
    assert Endpoints(session).discard(visitor()) is False


def test_mistakes_are_one_sentence(session: AppSession) -> None:
    for call in (
        lambda: Endpoints(session).solve(" "),
        lambda: Endpoints(session).memory("m000nothere"),
        lambda: Endpoints(session).search(""),
        lambda: Endpoints(session).think(ANN, "m000nothere"),
        lambda: Endpoints(session).feedback(True, visitor("new")),
        lambda: Endpoints(session).replay(visitor("new")),
        lambda: Endpoints(session).solve(ANN, rollouts=-1),
        lambda: Endpoints(session).receipt("r404"),
        lambda: Endpoints(session).receipt("\ud800"),
        lambda: Endpoints(session).export_peft("m000nothere"),
        lambda: Endpoints(session).import_bank(None),
    ):
        with pytest.raises(gr.Error) as caught:
            call()
        assert str(caught.value).count("\n") == 0 and len(str(caught.value)) > 20


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("solve", {"problem": 5}, "problem = '5' does not fit: it should be a text"),
        ("solve", {"problem": None}, "problem = 'None' does not fit"),
        (
            "solve",
            {"problem": ANN, "rollouts": "many"},
            "rollouts = 'many' does not fit: it should be a valid integer",
        ),
        ("solve", {"problem": ANN, "rollouts": [8]}, "does not fit"),
        (
            "solve",
            {"problem": ANN, "verifier": "magic"},
            "verifier = 'magic' does not fit: it should be 'vote_share'",
        ),
        ("solve", {"problem": ANN, "temperature": float("nan")}, "temperature"),
        ("think", {"problem": ANN, "memory_id": ""}, "memory_id is empty: give the id of a memory"),
        ("think", {"problem": ANN, "memory_id": " "}, "memory_id is empty"),
        ("think", {"problem": ANN, "memory_id": None}, "memory_id = 'None' does not fit"),
        (
            "distil",
            {"problem": ANN, "steps": 2.5},
            "steps = '2.5' does not fit: it should be a valid integer",
        ),
        ("search", {"problem": ANN, "k": "x"}, "k = 'x' does not fit"),
        ("search", {"problem": ANN, "key": "prompt"}, "key = 'prompt' does not fit"),
        (
            "feedback",
            {"correct": None},
            "correct = 'None' does not fit: it should be a valid boolean",
        ),
        (
            "memories",
            {"limit": 2.5},
            "limit = '2.5' does not fit: it should be a valid integer, got a number with a "
            "fractional part",
        ),
        ("memories", {"text": 7}, "text = '7' does not fit"),
        ("memory", {"memory_id": 3}, "memory_id = '3' does not fit"),
        ("neighbours", {"memory_id": "", "k": 2}, "memory_id is empty"),
        ("receipt", {"receipt_id": {}}, "receipt_id = '{}' does not fit"),
        ("forget", {"receipt_id": " "}, "receipt_id is empty: give the id of a receipt"),
        ("quarantine", {"memory_id": "m0", "reason": 4}, "reason = '4' does not fit"),
        ("tag", {"memory_id": "m0", "name": 4}, "name = '4' does not fit"),
        ("note", {"memory_id": "m0", "text": ["x"]}, "does not fit"),
        ("words", {"memory_id": None}, "does not fit"),
        ("delete", {"memory_id": 4}, "does not fit"),
        ("export_peft", {"memory_id": None}, "does not fit"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    session: AppSession, name: str, given: dict[str, Any], words: str
) -> None:
    Endpoints(session).solve(ANN, request=visitor())
    asks = {"request": visitor()} if name in ("solve", "distil", "feedback") else {}
    with pytest.raises(gr.Error) as caught:
        getattr(Endpoints(session), name)(**given, **asks)
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


PLAUSIBLE = (ANN, BO, "auto", "m0", "r0", 1, 2.0, 0.5, True, None, "input", "vote_share", "2")


@hypothesis.given(st.data())
def test_fuzz_what_an_endpoint_is_given(fuzzed: AppSession, data: st.DataObject) -> None:
    """Whatever JSON comes: an answer, or one sentence that is not an apology for a bug."""
    name = data.draw(st.sampled_from([n for n in api.ENDPOINTS if n != "stream"]))
    takes = [
        p for p in signature(getattr(Endpoints, name)).parameters if p not in ("self", "request")
    ]
    some = ANY_JSON | st.sampled_from(PLAUSIBLE)
    given_ = {p: data.draw(some) for p in takes if data.draw(st.integers(0, 3))}
    who = {"request": visitor(data.draw(st.sampled_from("ab")))}
    try:
        getattr(Endpoints(fuzzed), name)(**given_, **who)
    except gr.Error as e:
        assert is_sentence(e.message) and SORRY not in e.message, (name, given_, e.message)
    except TypeError as e:  # a call with too few values, which gradio's queue does not let through
        assert "missing a required argument" in str(e), (name, given_)


@pytest.fixture(scope="module")
def fuzzed() -> AppSession:
    return new_session()


def test_null_is_what_stands_in_the_description(session: AppSession) -> None:
    one = session.engine.bank.infos()[0].id
    assert len(Endpoints(session).memories(None, None)) == 2
    assert len(Endpoints(session).memories(limit="1")) == 1
    assert len(Endpoints(session).neighbours(one, None)) == 1
    assert Endpoints(session).quarantine(one, None) == one
    assert len(Endpoints(session).search(ANN, None)["hits"]) == 1, "the other one is in quarantine"
    assert Endpoints(session).tag(one, "x", None) == ["x"]
    assert Endpoints(session).note(one, None) == []
    assert (
        Endpoints(session).solve(ANN, memory=None, rollouts="4", request=visitor())["memory"][
            "total"
        ]
        == 4
    )
    assert Endpoints(session).distil(ANN, steps=2.0, keep=None)["kept"]


def test_half_a_character_is_replaced_and_not_refused(session: AppSession) -> None:
    assert (
        Endpoints(session)
        .solve(f"{ANN} \ud800", request=visitor())["problem"]["text"]
        .endswith("?")
    )


def test_a_bug_tells_no_secret(session: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("secret /path")

    monkeypatch.setattr(session.engine.bank, "infos", broken)
    with pytest.raises(gr.Error, match="server's log") as caught:
        Endpoints(session).memories()
    assert "secret" not in str(caught.value)


def test_a_receipt_is_deleted_for_good(session: AppSession) -> None:
    one, two = (
        Endpoints(session).solve(text, request=visitor())["id"]
        for text in (ANN, ANN + " And fish?")
    )
    tried = Endpoints(session).receipt(one)["used"]["memory_id"]
    assert Endpoints(session).forget(one) == one and [
        r.id for r in session.engine.bank.receipts()
    ] == [two]
    assert one not in Endpoints(session).memory(tried)["receipts"]
    assert session.engine.bank.info(tried).counters.used >= 1
    for gone in (one, "r404", "\ud800"):
        with pytest.raises(gr.Error, match="There is no receipt") as caught:
            Endpoints(session).forget(gone)
        assert "latentmem receipts" not in str(caught.value), "a client has no command line there"
    assert [r.id for r in session.engine.bank.receipts()] == [two]


def test_tags_notes_and_words(session: AppSession) -> None:
    one = session.engine.bank.infos()[0].id
    assert Endpoints(session).tag(one, "Teach first") == ["teach first"] and Endpoints(session).tag(
        one, "keep"
    ) == [
        "keep",
        "teach first",
    ]
    assert Endpoints(session).tag(one, "keep", on=False) == ["teach first"]
    assert [n["text"] for n in Endpoints(session).note(one, "odd")] == ["odd"] and len(
        Endpoints(session).note(one)
    ) == 1
    near = Endpoints(session).words(one)
    assert len(near) == 20 and near[0][0]["text"] and -1 <= near[0][0]["cosine"] <= 1
    json.dumps([near, Endpoints(session).note(one)])
    for call in (
        lambda: Endpoints(session).tag("m000nothere", "x"),
        lambda: Endpoints(session).tag(one, " "),
        lambda: Endpoints(session).note("m000nothere"),
        lambda: Endpoints(session).words("m000nothere"),
    ):
        with pytest.raises(gr.Error):
            call()


def test_files_out_and_in(session: AppSession) -> None:
    bank = Endpoints(session).export_bank()
    assert zipfile.is_zipfile(bank)
    assert Endpoints(AppSession(FakeEngine())).import_bank(bank)["added"] == 2
    peft = Endpoints(session).export_peft(session.engine.bank.infos()[0].id)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(
        zipfile.ZipFile(peft).namelist()
    )


def test_every_endpoint_is_documented() -> None:
    for endpoint in (*api.WORK, "stream", *api.QUICK):
        fn = getattr(Endpoints, endpoint)
        name, written, what = about.signature(fn)
        words = fn.__doc__ or ""
        assert name == endpoint and what.endswith(".") and "self" not in written
        for part in filter(None, written.split(", ")):
            if ":" in part:
                assert f"        {part.partition(':')[0]}: " in words, (
                    f"{name} does not explain {part}"
                )


def test_mcp_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from latentmem.ui import server

    engine = FakeEngine(Settings(mcp=True))
    real = server.find_spec
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "mcp" else real(name))
    with pytest.raises(LatentmemError, match="pip install"):
        launch_options(engine)
    monkeypatch.setattr(server, "find_spec", lambda name: object() if name == "mcp" else real(name))
    assert launch_options(engine)["mcp_server"] is True
    assert launch_options(FakeEngine())["mcp_server"] is False


# ---------- through a server
@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from gradio_client import Client

    session = new_session()
    app = build(session.engine)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(session.engine))
    try:
        yield Client(url, verbose=False)
    finally:
        app.close(verbose=False)


def test_a_client_solves_distils_and_sends_files(client: Any, tmp_path: Path) -> None:
    from gradio_client import handle_file

    receipt = client.predict(ANN, rollouts=4, api_name="/solve")
    assert receipt["answer"] and len(receipt["traces"]) == 8
    assert client.predict(receipt["id"], api_name="/receipt")["sentence"] == receipt["sentence"]
    assert client.predict(api_name="/replay")["same"] is True
    made = client.predict(ANN, steps=2, keep=False, api_name="/distil")
    assert client.predict(api_name="/keep") == made["memory_id"]
    archive = client.predict(api_name="/export_bank")
    assert client.predict(made["memory_id"], api_name="/delete") == made["memory_id"]
    report = client.predict(handle_file(archive), api_name="/import_bank")
    assert (report["added"], report["skipped"]) == (1, 2)
    assert client.predict("Ann has", api_name="/memories")[0]["id"] == made["memory_id"]
    peft = client.predict(made["memory_id"], api_name="/export_peft")
    assert zipfile.is_zipfile(peft)
    with pytest.raises(Exception, match="The problem is empty"):
        client.predict(" ", api_name="/solve")


@pytest.mark.parametrize("name", ["solve", "think", "distil", "search"])
def test_an_invalid_problem_is_refused_before_it_queues(
    client: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Behind a distillation it would wait for minutes."""
    reached, go, old = threading.Event(), threading.Event(), FakeEngine.distil

    def slow(self: FakeEngine, *args: Any, **how: Any) -> Iterator[Any]:
        reached.set()
        go.wait(30)
        yield from old(self, *args, **how)

    monkeypatch.setattr(FakeEngine, "distil", slow)
    job = client.submit(ANN, steps=1, keep=False, api_name="/distil")
    try:
        assert reached.wait(20)
        more = {"memory_id": "m0"} if name == "think" else {}
        for problem, words in ((" ", "The problem is empty"), ("x" * 9999, "characters and the")):
            with pytest.raises(Exception, match=words):
                client.predict(problem, **more, api_name=f"/{name}")
        assert not job.done()
    finally:
        go.set()
        job.result(30)


def test_whatever_json_a_client_sends_is_answered_in_a_sentence(client: Any) -> None:
    """Not through gradio's client, which checks some of it before it is sent."""

    def answered(name: str, *data: Any) -> str:
        call = f"{client.src}gradio_api/call/{name}"
        body = json.dumps({"data": data}).encode()
        event = json.loads(
            urlopen(Request(call, body, {"Content-Type": "application/json"}), timeout=60).read()
        )["event_id"]
        return urlopen(f"{call}/{event}", timeout=60).read().decode()

    rows = answered("memories", "Bo has", None)
    assert "event: complete" in rows and "Bo has 5 cats" in rows
    for name, data, words in (
        ("memories", ("", 2.5), "limit = '2.5' does not fit: it should be a valid integer"),
        ("think", (ANN, "", None, None, None), "memory_id is empty"),
        ("solve", (5, "auto", *[None] * 8), "problem = '5' does not fit"),
        ("forget", ("r404",), "There is no receipt"),
    ):
        said = answered(name, *data)
        assert "event: error" in said and words in said, (name, said)


def test_the_types_of_parameters_are_told(client: Any) -> None:
    told = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(told) == {f"/{name}" for name in api.ENDPOINTS}
    named = {p["parameter_name"]: p for p in told["/solve"]["parameters"]}
    assert "request" not in named and named["problem"]["python_type"]["type"] == "str"
    assert "int" in named["rollouts"]["python_type"]["type"]
    assert named["rollouts"]["parameter_has_default"]


# ---------- the stream


@pytest.fixture
def streams(tmp_path: Path) -> AppSession:
    return AppSession(FakeEngine(Settings(bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]


def test_it_ends_with_what_the_panel_shows(streams: AppSession, tmp_path: Path) -> None:
    *_, last = Endpoints(streams).stream("change", BOTH, 6, 0, request=visitor())
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
    streams: AppSession, monkeypatch: pytest.MonkeyPatch, replies: list[str]
) -> None:
    reached, go = held(monkeypatch, after=3)
    answers = Endpoints(streams).stream("change", BOTH, 6, 0, request=visitor())
    seen = [next(answers)]
    while seen[-1]["done"] < 7:  # the eighth reply is held
        seen.append(next(answers))
    assert reached.wait(20)
    assert not seen[-1]["whole"]
    assert seen[-1]["results"] == [] == seen[-1]["learned"]
    assert [s["n"] for s in seen[-1]["standings"]] == [4, 3] and seen[-1]["doing"]
    visit = streams.visit(visitor())
    visit.seen = 0.0
    assert next(answers)["done"] == 7, (
        "it answers without news, too: only between two answers gradio can cancel it"
    )
    assert visit.seen > 0, "and its client is not forgotten as idle"
    answers.close()
    go.set()
    settle(streams)
    assert len(replies) < 12, "nobody waits for the rest"


def test_it_goes_on_where_the_panel_or_a_call_was_stopped(
    streams: AppSession, replies: list[str]
) -> None:
    streamed(streams, size=6)
    assert len(replies) == 12
    *_, last = Endpoints(streams).stream("change", BOTH, 6, 0, request=visitor("program"))
    assert len(replies) == 12 and last["done"] == 12 and len(last["results"]) == 12, (
        "the same choices are the same stream"
    )
    *_, last = Endpoints(streams).stream(
        "change", BOTH, 6, 0, fresh=True, request=visitor("program")
    )
    assert len(replies) == 24 and last["done"] == 12


def test_what_is_left_out_is_what_the_panel_begins_with(streams: AppSession) -> None:
    *_, last = Endpoints(streams).stream()
    stand = [(s["system"], s["form"]) for s in last["standings"]]
    assert last["problems"] == 8
    assert stand == [("zero_shot", "one"), ("zero_shot", "vote"), ("elm", "one")]
    data = streaming.all_of(streams, ALL, None, streams.engine.settings.seed)
    assert {r["problem_id"] for r in last["results"]} == {p.id for p in data.problems[:8]}
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
def test_mistakes_of_a_stream_are_one_sentence(
    streams: AppSession, given: dict[str, Any], words: str
) -> None:
    with pytest.raises(gr.Error, match=words) as caught:
        list(Endpoints(streams).stream(**given, request=visitor()))
    assert "\n" not in str(caught.value)


def test_a_bug_tells_a_client_no_secret(
    streams: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("secret /path")

    monkeypatch.setattr(FakeSystem, "reply", broken)
    with pytest.raises(gr.Error, match="server's log") as caught:
        list(Endpoints(streams).stream("change", BOTH, 2, request=visitor()))
    assert "secret" not in str(caught.value)


def test_a_shared_app_holds_its_limit_and_keeps_clients_apart(
    tmp_path: Path, replies: list[str]
) -> None:
    streams = AppSession(FakeEngine(Settings(hosted=True, bank=tmp_path / "home" / "bank.sqlite")))  # type: ignore[arg-type]
    one, two = streams.at(visitor("one")), streams.at(visitor("two"))
    with pytest.raises(gr.Error, match="choose 1 to 6"):
        list(Endpoints(one).stream(problems=7, request=visitor("one")))
    assert list(Endpoints(one).stream("change", BOTH, request=visitor("one")))[-1]["problems"] == 6
    list(Endpoints(two).stream("change", BOTH, request=visitor("two")))
    assert len(replies) == 24 and not (tmp_path / "home" / "streams").exists()


def test_stop_on_the_panel_and_the_endpoint_share_a_visitors_run(
    streams: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = held(monkeypatch, after=1)
    answers = Endpoints(streams).stream("change", BOTH, 6, 0, request=visitor())
    next(answers), next(answers)
    assert reached.wait(20)
    assert "Press Go on" in text_of(Stream(streams).stop(visitor()).status)
    go.set()
    assert list(answers)[-1]["whole"] is False


def test_it_answers_before_anything_is_done_and_can_be_cancelled_then(
    streams: AppSession, replies: list[str]
) -> None:
    answers = Endpoints(streams).stream("change", BOTH, 6, 0, request=visitor())
    first = next(answers)
    assert first["done"] == 0 == first["total"] and not first["whole"] and first["standings"] == []
    answers.close()
    run = streams.visit(visitor()).runs["stream"]
    assert replies == [] and run.thread is None and run.stop.is_set() and not run.pressed


# ---------- through a server
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
def streaming_client(address: str) -> Any:
    from gradio_client import Client

    return Client(address, verbose=False)


def test_a_client_sends_a_file_and_hears_of_its_mistakes(
    streaming_client: Any, tmp_path: Path
) -> None:
    from gradio_client import handle_file

    file = tmp_path / "mine.jsonl"
    file.write_text('{"problem": "What is 4 + 1?", "answer": "5"}\n{broken\n')
    job = streaming_client.submit(file=handle_file(str(file)), systems=["elm"], api_name="/stream")
    last = job.result(timeout=60)
    assert last == job.outputs()[-1]
    assert last["whole"]
    assert [r["truth"] for r in last["results"]] == ["5"]
    assert "line 2 is not JSON" in " ".join(last["notes"])
    assert streaming_client.predict("change", problems=2, api_name="/stream")["done"] == 6
    for given, words in (
        ({"systems": []}, "No system is chosen"),
        ({"problems": 201}, "choose 1 to 200"),
        ({"family": "nothing"}, "not in the list"),
        ({"systems": ["nothing"]}, "not in the list"),
    ):
        with pytest.raises(Exception, match=words):
            streaming_client.predict(**given, api_name="/stream")
    file.write_text("nothing")
    with pytest.raises(Exception, match=r"mine\.jsonl is not JSONL, a JSON array"):
        streaming_client.predict(file=handle_file(str(file)), api_name="/stream")


def test_a_client_that_cancels_stops_it(
    streaming_client: Any, monkeypatch: pytest.MonkeyPatch, replies: list[str]
) -> None:
    reached, go = held(monkeypatch, after=3)
    runs: list[Run] = []
    new_run = Stream.new_run
    monkeypatch.setattr(Stream, "new_run", lambda *asked: runs.append(new_run(*asked)) or runs[-1])
    job = streaming_client.submit("change", systems=BOTH, problems=6, seed=5, api_name="/stream")
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
    assert runs[0].done and len(replies) < 12
    assert streaming_client.predict("change", systems=BOTH, problems=6, seed=5, api_name="/stream")[
        "whole"
    ]
    assert len(replies) == 12


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


def test_the_types_are_told(streaming_client: Any) -> None:
    told = streaming_client.view_api(return_format="dict", print_info=False)["named_endpoints"][
        "/stream"
    ]
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
