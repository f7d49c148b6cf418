"""The named endpoints, as functions and through a real server with gradio's own client."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.records import LatentmemError
from latentmem.settings import Settings
from latentmem.ui import about, api, build, launch_options
from latentmem.ui.session import Desk

from .fake_engine import FakeEngine
from .ui_samples import ANN, BO, new_desk, visitor


@pytest.fixture
def desk() -> Desk:
    return new_desk()


def test_the_endpoints_give_plain_json(desk: Desk) -> None:
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
    assert [h["memory_id"] for h in api.neighbours(desk, made["memory_id"], 1)] != [made["memory_id"]]
    assert api.quarantine(desk, made["memory_id"], "x")
    row = api.memory(desk, made["memory_id"])
    assert row["quarantined"] and len(row["steps"]) == 3 and row["events"][0]["kind"] == "quarantined"
    api.release(desk, made["memory_id"])
    with pytest.raises(gr.Error, match="whole id"):
        api.delete(desk, made["memory_id"][:6])
    assert api.delete(desk, made["memory_id"]) not in desk.engine.bank
    json.dumps([receipt, made, thought, row])


def test_a_receipt_is_found_again_by_its_id_and_by_its_memory(desk: Desk) -> None:
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


def test_what_is_not_kept_waits_for_keep_or_discard(desk: Desk) -> None:
    for end, size in ((api.keep, 3), (api.discard, 3)):
        made = api.distil(desk, ANN if end is api.keep else BO, keep=False, request=visitor())
        assert not made["kept"] and len(desk.engine.bank) <= size
        assert end(desk, visitor()) and len(desk.engine.bank) == size
    with pytest.raises(gr.Error, match="no memory to keep"):
        api.keep(desk, visitor())
    assert api.discard(desk, visitor()) is False


def test_mistakes_are_one_sentence(desk: Desk) -> None:
    for call in (lambda: api.solve(desk, " "), lambda: api.memory(desk, "m000nothere"), lambda: api.search(desk, ""),
                 lambda: api.think(desk, ANN, "m000nothere"), lambda: api.feedback(desk, True, visitor("new")),
                 lambda: api.replay(desk, visitor("new")), lambda: api.solve(desk, ANN, rollouts=-1),
                 lambda: api.receipt(desk, "r404"), lambda: api.receipt(desk, "\ud800"),
                 lambda: api.export_peft(desk, "m000nothere"), lambda: api.import_bank(desk, None)):
        with pytest.raises(gr.Error) as caught:
            call()
        assert str(caught.value).count("\n") == 0 and len(str(caught.value)) > 20


def test_tags_notes_and_words(desk: Desk) -> None:
    one = desk.engine.bank.infos()[0].id
    assert api.tag(desk, one, "Teach first") == ["teach first"] and api.tag(desk, one, "keep") == ["keep", "teach first"]
    assert api.tag(desk, one, "keep", on=False) == ["teach first"]
    assert [n["text"] for n in api.note(desk, one, "odd")] == ["odd"] and len(api.note(desk, one)) == 1
    near = api.words(desk, one)
    assert len(near) == 20 and near[0][0]["text"] and -1 <= near[0][0]["cosine"] <= 1
    json.dumps([near, api.note(desk, one)])
    for call in (lambda: api.tag(desk, "m000nothere", "x"), lambda: api.tag(desk, one, " "),
                 lambda: api.note(desk, "m000nothere"), lambda: api.words(desk, "m000nothere")):
        with pytest.raises(gr.Error):
            call()


def test_files_out_and_in(desk: Desk) -> None:
    bank = api.export_bank(desk)
    assert zipfile.is_zipfile(bank) and api.import_bank(Desk(FakeEngine()), bank)["added"] == 2
    peft = api.export_peft(desk, desk.engine.bank.infos()[0].id)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(zipfile.ZipFile(peft).namelist())


def test_every_endpoint_is_documented() -> None:
    for fn in (*api.WORK, api.stream, *api.QUICK):
        name, written, what = about.signature(fn)
        words = fn.__doc__ or ""
        assert name == fn.__name__ and what.endswith(".") and "desk" not in written
        for part in filter(None, written.split(", ")):
            if ":" in part:
                assert f"        {part.partition(':')[0]}: " in words, f"{name} does not explain {part}"


def test_mcp_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from latentmem.ui import theme

    engine = FakeEngine(Settings(mcp=True))
    real = theme.find_spec
    monkeypatch.setattr(theme, "find_spec", lambda name: None if name == "mcp" else real(name))
    with pytest.raises(LatentmemError, match="pip install"):
        launch_options(engine)
    monkeypatch.setattr(theme, "find_spec", lambda name: object() if name == "mcp" else real(name))
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


def test_the_types_of_parameters_are_told(client: Any) -> None:
    told = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(told) == {f"/{fn.__name__}" for fn in api.ENDPOINTS}
    named = {p["parameter_name"]: p for p in told["/solve"]["parameters"]}
    assert "request" not in named and named["problem"]["python_type"]["type"] == "str"
    assert "int" in named["rollouts"]["python_type"]["type"] and named["rollouts"]["parameter_has_default"]
