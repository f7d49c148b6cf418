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
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
from tests.ui_samples import ANN, BO, new_desk, visitor


@pytest.fixture
def desk() -> AppSession:
    return new_desk()


def test_the_endpoints_give_plain_json(desk: AppSession) -> None:
    receipt = api.solve(desk, ANN, rollouts=4, request=visitor())
    assert receipt["answer"] and receipt["sentence"] and len(receipt["traces"]) == 8
    assert api.replay(desk, visitor()) == {"same": True, "receipt": receipt["id"], "reason": ""}
    assert api.feedback(desk, True, visitor()) == receipt["id"]
    made = api.distil(desk, ANN, steps=2)
    assert made["kept"] and made["memory_id"] in desk.engine.bank
    thought = api.think(desk, ANN, made["memory_id"], rollouts=4)
    assert len(thought["traces"]) == 4 and thought["vote"]["total"] == 4
    assert [row["id"] for row in api.memories(desk, "Ann has")] == [made["memory_id"]]
    assert api.search(desk, ANN, 2)["hits"][0]["memory_id"] == made["memory_id"]
    assert [h["memory_id"] for h in api.neighbours(desk, made["memory_id"], 1)] != [
        made["memory_id"]
    ]
    assert api.quarantine(desk, made["memory_id"], "x")
    row = api.memory(desk, made["memory_id"])
    assert (
        row["quarantined"] and len(row["steps"]) == 3 and row["events"][0]["kind"] == "quarantined"
    )
    api.release(desk, made["memory_id"])
    with pytest.raises(gr.Error, match="whole id"):
        api.delete(desk, made["memory_id"][:6])
    assert api.delete(desk, made["memory_id"]) not in desk.engine.bank
    json.dumps([receipt, made, thought, row])


def test_a_receipt_is_found_again_by_its_id_and_by_its_memory(desk: AppSession) -> None:
    asked = api.solve(desk, ANN, rollouts=4, request=visitor())
    again = api.receipt(desk, asked["id"])
    for one in (asked, again):
        assert [len(t) for t in (one.pop("traces"),)] == [8]
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(asked))
    tried = asked["used"]["memory_id"]
    assert api.memory(desk, tried)["receipts"] == [asked["id"]]
    assert asked["id"] in {e["receipt_id"] for e in api.memory(desk, tried)["events"]}
    other = next(i.id for i in desk.engine.bank.infos() if i.id != tried)
    assert api.memory(desk, other)["receipts"] == []


def test_what_is_not_kept_waits_for_keep_or_discard(desk: AppSession) -> None:
    for end, size in ((api.keep, 3), (api.discard, 3)):
        made = api.distil(desk, ANN if end is api.keep else BO, keep=False, request=visitor())
        assert not made["kept"] and len(desk.engine.bank) <= size
        assert end(desk, visitor()) and len(desk.engine.bank) == size
    with pytest.raises(gr.Error, match="no memory to keep"):
        api.keep(desk, visitor())
    assert api.discard(desk, visitor()) is False


def test_mistakes_are_one_sentence(desk: AppSession) -> None:
    for call in (
        lambda: api.solve(desk, " "),
        lambda: api.memory(desk, "m000nothere"),
        lambda: api.search(desk, ""),
        lambda: api.think(desk, ANN, "m000nothere"),
        lambda: api.feedback(desk, True, visitor("new")),
        lambda: api.replay(desk, visitor("new")),
        lambda: api.solve(desk, ANN, rollouts=-1),
        lambda: api.receipt(desk, "r404"),
        lambda: api.receipt(desk, "\ud800"),
        lambda: api.export_peft(desk, "m000nothere"),
        lambda: api.import_bank(desk, None),
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
    api.solve(desk, ANN, request=visitor())
    asks = {"request": visitor()} if name in ("solve", "distil", "feedback") else {}
    with pytest.raises(gr.Error) as caught:
        getattr(api, name)(desk, **given, **asks)
    assert words in str(caught.value) and "\n" not in str(caught.value), str(caught.value)


def test_null_is_what_stands_in_the_description(desk: AppSession) -> None:
    one = desk.engine.bank.infos()[0].id
    assert len(api.memories(desk, None, None)) == 2 and len(api.memories(desk, limit="1")) == 1
    assert len(api.neighbours(desk, one, None)) == 1 and api.quarantine(desk, one, None) == one
    assert len(api.search(desk, ANN, None)["hits"]) == 1, "the other one is in quarantine"
    assert api.tag(desk, one, "x", None) == ["x"] and api.note(desk, one, None) == []
    assert (
        api.solve(desk, ANN, memory=None, rollouts="4", request=visitor())["memory"]["total"] == 4
    )
    assert api.distil(desk, ANN, steps=2.0, keep=None)["kept"]


def test_half_a_character_is_replaced_and_not_refused(desk: AppSession) -> None:
    assert api.solve(desk, f"{ANN} \ud800", request=visitor())["problem"]["text"].endswith("?")


def test_a_bug_tells_no_secret(desk: AppSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise TypeError("secret /path")

    monkeypatch.setattr(desk.engine.bank, "infos", broken)
    with pytest.raises(gr.Error, match="server's log") as caught:
        api.memories(desk)
    assert "secret" not in str(caught.value)


def test_a_receipt_is_deleted_for_good(desk: AppSession) -> None:
    one, two = (
        api.solve(desk, text, request=visitor())["id"] for text in (ANN, ANN + " And fish?")
    )
    tried = api.receipt(desk, one)["used"]["memory_id"]
    assert api.forget(desk, one) == one and [r.id for r in desk.engine.bank.receipts()] == [two]
    assert (
        one not in api.memory(desk, tried)["receipts"]
        and desk.engine.bank.info(tried).counters.used >= 1
    )
    for gone in (one, "r404", "\ud800"):
        with pytest.raises(gr.Error, match="There is no receipt") as caught:
            api.forget(desk, gone)
        assert "latentmem receipts" not in str(caught.value), "a client has no command line there"
    assert [r.id for r in desk.engine.bank.receipts()] == [two]


def test_tags_notes_and_words(desk: AppSession) -> None:
    one = desk.engine.bank.infos()[0].id
    assert api.tag(desk, one, "Teach first") == ["teach first"] and api.tag(desk, one, "keep") == [
        "keep",
        "teach first",
    ]
    assert api.tag(desk, one, "keep", on=False) == ["teach first"]
    assert [n["text"] for n in api.note(desk, one, "odd")] == ["odd"] and len(
        api.note(desk, one)
    ) == 1
    near = api.words(desk, one)
    assert len(near) == 20 and near[0][0]["text"] and -1 <= near[0][0]["cosine"] <= 1
    json.dumps([near, api.note(desk, one)])
    for call in (
        lambda: api.tag(desk, "m000nothere", "x"),
        lambda: api.tag(desk, one, " "),
        lambda: api.note(desk, "m000nothere"),
        lambda: api.words(desk, "m000nothere"),
    ):
        with pytest.raises(gr.Error):
            call()


def test_files_out_and_in(desk: AppSession) -> None:
    bank = api.export_bank(desk)
    assert (
        zipfile.is_zipfile(bank) and api.import_bank(AppSession(FakeEngine()), bank)["added"] == 2
    )
    peft = api.export_peft(desk, desk.engine.bank.infos()[0].id)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(
        zipfile.ZipFile(peft).namelist()
    )


def test_every_endpoint_is_documented() -> None:
    for fn in (*api.WORK, api.stream, *api.QUICK):
        name, written, what = about.signature(fn)
        words = fn.__doc__ or ""
        assert name == fn.__name__ and what.endswith(".") and "desk" not in written
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
    assert set(told) == {f"/{fn.__name__}" for fn in api.ENDPOINTS}
    named = {p["parameter_name"]: p for p in told["/solve"]["parameters"]}
    assert "request" not in named and named["problem"]["python_type"]["type"] == "str"
    assert (
        "int" in named["rollouts"]["python_type"]["type"]
        and named["rollouts"]["parameter_has_default"]
    )
