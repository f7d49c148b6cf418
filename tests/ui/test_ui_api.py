"""The named endpoints, as functions and through a real server with gradio's own client."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import gradio as gr
import pytest

from latentmem.records import LatentmemError
from latentmem.settings import Settings
from latentmem.ui import api, build, launch_options
from latentmem.ui import app as about
from latentmem.ui.api import Endpoints
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
from tests.ui_samples import ANN, BO, new_desk, visitor


@pytest.fixture
def desk() -> AppSession:
    return new_desk()


def test_the_endpoints_give_plain_json(desk: AppSession) -> None:
    receipt = Endpoints(desk).solve(ANN, rollouts=4, request=visitor())
    assert receipt["answer"] and receipt["sentence"] and len(receipt["traces"]) == 8
    assert Endpoints(desk).replay(visitor()) == {
        "same": True,
        "receipt": receipt["id"],
        "reason": "",
    }
    assert Endpoints(desk).feedback(True, visitor()) == receipt["id"]
    made = Endpoints(desk).distil(ANN, steps=2)
    assert made["kept"] and made["memory_id"] in desk.engine.bank
    thought = Endpoints(desk).think(ANN, made["memory_id"], rollouts=4)
    assert len(thought["traces"]) == 4 and thought["vote"]["total"] == 4
    assert [row["id"] for row in Endpoints(desk).memories("Ann has")] == [made["memory_id"]]
    assert Endpoints(desk).search(ANN, 2)["hits"][0]["memory_id"] == made["memory_id"]
    assert [h["memory_id"] for h in Endpoints(desk).neighbours(made["memory_id"], 1)] != [
        made["memory_id"]
    ]
    assert Endpoints(desk).quarantine(made["memory_id"], "x")
    row = Endpoints(desk).memory(made["memory_id"])
    assert (
        row["quarantined"] and len(row["steps"]) == 3 and row["events"][0]["kind"] == "quarantined"
    )
    Endpoints(desk).release(made["memory_id"])
    with pytest.raises(gr.Error, match="whole id"):
        Endpoints(desk).delete(made["memory_id"][:6])
    assert Endpoints(desk).delete(made["memory_id"]) not in desk.engine.bank
    json.dumps([receipt, made, thought, row])


def test_a_receipt_is_found_again_by_its_id_and_by_its_memory(desk: AppSession) -> None:
    asked = Endpoints(desk).solve(ANN, rollouts=4, request=visitor())
    again = Endpoints(desk).receipt(asked["id"])
    for one in (asked, again):
        assert [len(t) for t in (one.pop("traces"),)] == [8]
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(asked))
    tried = asked["used"]["memory_id"]
    assert Endpoints(desk).memory(tried)["receipts"] == [asked["id"]]
    assert asked["id"] in {e["receipt_id"] for e in Endpoints(desk).memory(tried)["events"]}
    other = next(i.id for i in desk.engine.bank.infos() if i.id != tried)
    assert Endpoints(desk).memory(other)["receipts"] == []


def test_what_is_not_kept_waits_for_keep_or_discard(desk: AppSession) -> None:
    program = Endpoints(desk)
    for end, text, size in ((program.keep, ANN, 3), (program.discard, BO, 3)):
        made = program.distil(text, keep=False, request=visitor())
        assert not made["kept"] and len(desk.engine.bank) <= size
        assert end(visitor()) and len(desk.engine.bank) == size
    with pytest.raises(gr.Error, match="no memory to keep"):
        Endpoints(desk).keep(visitor())
    assert Endpoints(desk).discard(visitor()) is False


def test_mistakes_are_one_sentence(desk: AppSession) -> None:
    for call in (
        lambda: Endpoints(desk).solve(" "),
        lambda: Endpoints(desk).memory("m000nothere"),
        lambda: Endpoints(desk).search(""),
        lambda: Endpoints(desk).think(ANN, "m000nothere"),
        lambda: Endpoints(desk).feedback(True, visitor("new")),
        lambda: Endpoints(desk).replay(visitor("new")),
        lambda: Endpoints(desk).solve(ANN, rollouts=-1),
        lambda: Endpoints(desk).receipt("r404"),
        lambda: Endpoints(desk).receipt("\ud800"),
        lambda: Endpoints(desk).export_peft("m000nothere"),
        lambda: Endpoints(desk).import_bank(None),
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
    desk: AppSession, name: str, given: dict[str, Any], words: str
) -> None:
    Endpoints(desk).solve(ANN, request=visitor())
    asks = {"request": visitor()} if name in ("solve", "distil", "feedback") else {}
    with pytest.raises(gr.Error) as caught:
        getattr(Endpoints(desk), name)(**given, **asks)
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_null_is_what_stands_in_the_description(desk: AppSession) -> None:
    one = desk.engine.bank.infos()[0].id
    assert (
        len(Endpoints(desk).memories(None, None)) == 2
        and len(Endpoints(desk).memories(limit="1")) == 1
    )
    assert (
        len(Endpoints(desk).neighbours(one, None)) == 1
        and Endpoints(desk).quarantine(one, None) == one
    )
    assert len(Endpoints(desk).search(ANN, None)["hits"]) == 1, "the other one is in quarantine"
    assert Endpoints(desk).tag(one, "x", None) == ["x"] and Endpoints(desk).note(one, None) == []
    assert (
        Endpoints(desk).solve(ANN, memory=None, rollouts="4", request=visitor())["memory"]["total"]
        == 4
    )
    assert Endpoints(desk).distil(ANN, steps=2.0, keep=None)["kept"]


def test_half_a_character_is_replaced_and_not_refused(desk: AppSession) -> None:
    assert (
        Endpoints(desk).solve(f"{ANN} \ud800", request=visitor())["problem"]["text"].endswith("?")
    )


def test_a_bug_tells_no_secret(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("secret /path")

    monkeypatch.setattr(desk.engine.bank, "infos", broken)
    with pytest.raises(gr.Error, match="server's log") as caught:
        Endpoints(desk).memories()
    assert "secret" not in str(caught.value)


def test_a_receipt_is_deleted_for_good(desk: AppSession) -> None:
    one, two = (
        Endpoints(desk).solve(text, request=visitor())["id"] for text in (ANN, ANN + " And fish?")
    )
    tried = Endpoints(desk).receipt(one)["used"]["memory_id"]
    assert Endpoints(desk).forget(one) == one and [r.id for r in desk.engine.bank.receipts()] == [
        two
    ]
    assert (
        one not in Endpoints(desk).memory(tried)["receipts"]
        and desk.engine.bank.info(tried).counters.used >= 1
    )
    for gone in (one, "r404", "\ud800"):
        with pytest.raises(gr.Error, match="There is no receipt") as caught:
            Endpoints(desk).forget(gone)
        assert "latentmem receipts" not in str(caught.value), "a client has no command line there"
    assert [r.id for r in desk.engine.bank.receipts()] == [two]


def test_tags_notes_and_words(desk: AppSession) -> None:
    one = desk.engine.bank.infos()[0].id
    assert Endpoints(desk).tag(one, "Teach first") == ["teach first"] and Endpoints(desk).tag(
        one, "keep"
    ) == [
        "keep",
        "teach first",
    ]
    assert Endpoints(desk).tag(one, "keep", on=False) == ["teach first"]
    assert [n["text"] for n in Endpoints(desk).note(one, "odd")] == ["odd"] and len(
        Endpoints(desk).note(one)
    ) == 1
    near = Endpoints(desk).words(one)
    assert len(near) == 20 and near[0][0]["text"] and -1 <= near[0][0]["cosine"] <= 1
    json.dumps([near, Endpoints(desk).note(one)])
    for call in (
        lambda: Endpoints(desk).tag("m000nothere", "x"),
        lambda: Endpoints(desk).tag(one, " "),
        lambda: Endpoints(desk).note("m000nothere"),
        lambda: Endpoints(desk).words("m000nothere"),
    ):
        with pytest.raises(gr.Error):
            call()


def test_files_out_and_in(desk: AppSession) -> None:
    bank = Endpoints(desk).export_bank()
    assert (
        zipfile.is_zipfile(bank)
        and Endpoints(AppSession(FakeEngine())).import_bank(bank)["added"] == 2
    )
    peft = Endpoints(desk).export_peft(desk.engine.bank.infos()[0].id)
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


# ------------------------------------------------------------------ through a server
@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    from gradio_client import Client

    desk = new_desk()
    app = build(desk.engine)
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(desk.engine))
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
    assert (
        "int" in named["rollouts"]["python_type"]["type"]
        and named["rollouts"]["parameter_has_default"]
    )
