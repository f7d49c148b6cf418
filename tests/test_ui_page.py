"""The Memories panel, the page as a whole and the endpoints, without a browser, against an engine without a model."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path

import gradio as gr
import pytest

from latentmem.records import Receipt
from latentmem.ui import api, build, distil, launch_options, layout, memories, parts, session, solve, theme
from latentmem.ui.session import Desk

from .fake_engine import FakeEngine
from .ui_samples import ANN, LOOK, asked, distilled, new_desk, text_of, visitor


@pytest.fixture
def desk() -> Desk:
    return new_desk()


# ------------------------------------------------------------------ memories
def test_a_click_opens_a_memory_and_nonsense_does_not(desk: Desk) -> None:
    info = desk.engine.bank.infos()[0]
    event = gr.EventData(None, {"id": info.id})
    opened = memories.clicked(desk, *LOOK, event, visitor())
    assert opened.chosen == info.id and f'data-address="{info.id}"' in text_of(opened.page) and opened.actions["visible"]
    assert len(opened.map["layout"]["annotations"]) == 1  # the edge to the other memory
    for bad in ({"id": "m000nothere"}, {"id": {"path": "/etc/passwd"}}, {}, ["x"]):
        shut = memories.clicked(desk, *LOOK, gr.EventData(None, bad), visitor())
        assert shut.chosen == "" and not shut.actions["visible"]
    json.dumps(opened.map)


def test_a_problem_is_placed_with_edges_to_its_neighbours(desk: Desk) -> None:
    last = list(memories.locate(desk, ANN, *LOOK, "", visitor()))[-1]
    assert len(last.map["layout"]["annotations"]) == 2 and any(d.get("name") == "your problem" for d in last.map["data"])
    assert "true similarities" in text_of(last.trust)
    other = memories.refresh(desk, "", "source", "kv", "", visitor())  # the star was placed by another kind of key
    assert not any(d.get("name") == "your problem" for d in other.map["data"])
    cleared = memories.clear(desk, *LOOK, "", visitor())
    assert cleared[0] == "" and not cleared[1:][2]["layout"]["annotations"]
    assert "empty" in text_of(list(memories.locate(desk, " ", *LOOK, "", visitor()))[-1].notice)


def test_the_receipt_leads_to_the_map(desk: Desk) -> None:
    last = asked(desk)[-1]
    assert 'data-memory="' in text_of(last.receipt)
    opened = memories.clicked(desk, *LOOK, gr.EventData(None, {"id": desk.engine.bank.infos()[0].id}), visitor())
    assert any(d.get("name") == "your problem" for d in opened.map["data"])


def test_quarantine_release_delete(desk: Desk) -> None:
    name = desk.engine.bank.infos()[0].id
    shut = memories.quarantine(desk, *LOOK, name, visitor())
    assert desk.engine.bank.info(name).quarantined and shut.release["visible"] and not shut.quarantine["visible"]
    assert "quarantined" in text_of(shut.page)
    assert memories.release(desk, *LOOK, name, visitor()).quarantine["visible"]
    gone = memories.delete(desk, *LOOK, name, visitor())
    assert name not in desk.engine.bank and gone.chosen == "" and "Deleted" in text_of(gone.notice)
    assert "alert" in text_of(memories.delete(desk, *LOOK, name, visitor()).notice)


def test_export_and_import(desk: Desk) -> None:
    update, said = memories.export_all(desk)
    assert zipfile.is_zipfile(update["value"]) and "Exported 2 memories" in text_of(said)
    peft, _ = memories.export_peft(desk, desk.engine.bank.infos()[0].id)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(zipfile.ZipFile(peft["value"]).namelist())
    other = Desk(FakeEngine())
    assert "Added 2 memories; 0 were" in text_of(memories.import_zip(other, update["value"], *LOOK, "", visitor()).notice)
    again = memories.import_zip(other, update["value"], *LOOK, "", visitor())
    assert "Added 0 memories; 2 were" in text_of(again.notice) and len(again.choice["choices"]) == 2
    bad = Path(update["value"]).with_name("bad.zip")
    bad.write_bytes(b"no zip")
    assert "alert" in text_of(memories.import_zip(other, str(bad), *LOOK, "", visitor()).notice)
    assert not memories.export_peft(desk, "m000nothere")[0]["visible"]


def test_an_empty_bank_is_shown_kindly() -> None:
    picture = memories.refresh(Desk(FakeEngine()), *LOOK, "", visitor())
    assert "No memory yet" in text_of(picture.table) and picture.map["data"] == []


def test_the_projection_is_computed_once_for_the_same_memories(desk: Desk) -> None:
    memories.refresh(desk, *LOOK, "", visitor())
    plane = desk.planes["input"][1]
    memories.refresh(desk, "x", "age", "input", "", visitor())
    assert desk.planes["input"][1] is plane
    distilled(desk), distil.keep(desk, visitor()), memories.refresh(desk, *LOOK, "", visitor())
    assert desk.planes["input"][1] is not plane


# ------------------------------------------------------------------ the page as a whole
def test_the_address_opens_a_memory_and_fills_the_box(desk: Desk) -> None:
    name = desk.engine.bank.infos()[1].id
    tabs, problem, facts, *page = layout.arrive(desk, visitor(memory=name, problem="${1+1}"))
    assert tabs["selected"] == "memories" and problem == "${1+1}" and page[5] == name and "2" in text_of(facts)
    tabs, _, _, *page = layout.arrive(desk, visitor(memory="m000nothere"))
    assert "alert" in text_of(page[0]) and page[5] == ""


def test_bound_handlers_still_ask_for_the_request(desk: Desk) -> None:
    from gradio.helpers import special_args

    handler = session.bind(memories.clicked, desk)
    values, _, event, _ = special_args(handler, list(LOOK), request="the request", event_data=gr.EventData(None, {}))  # type: ignore[arg-type]
    assert values[:3] == list(LOOK) and isinstance(values[3], gr.EventData) and values[4] == "the request" and event == 3


def test_visits_are_bounded_and_the_oldest_is_stopped(desk: Desk) -> None:
    run = desk.visit(visitor("first")).start("solve")
    for i in range(session.MOST_VISITS):
        desk.visit(visitor(f"v{i}"))
    assert run.stop.is_set() and len(desk._visits) == session.MOST_VISITS


def test_sliders_give_whole_numbers() -> None:
    given = parts.checked(8.0, 0.8, 1.0, 320.0, None, "judge", "kv", 0.25)
    assert given["rollouts"] == 8 and isinstance(given["rollouts"], int) and "seed" not in given


def test_examples_come_by_family_and_the_package_lives_without_them(tmp_path: Path, desk: Desk) -> None:
    families = {session.family(p) for p in desk.examples.values()}
    one = sorted(families)[0]
    assert solve.examples_of(desk, one)["choices"]
    assert session.load_examples(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("nonsense")
    assert session.load_examples(tmp_path / "bad.jsonl")
    known = next(iter(desk.examples.values()))
    assert desk.problem(known.text).id == known.id and desk.problem(known.text).answer is None


@pytest.fixture(scope="module")
def app() -> gr.Blocks:
    return build(FakeEngine())


def test_the_app_composes_with_one_queue_for_the_model(app: gr.Blocks) -> None:
    by_name = {fn.api_name: fn for fn in app.fns.values() if fn.api_visibility == "public"}
    assert {"solve", "distil", "search", "memories", "memory", "quarantine", "release", "delete"} <= set(by_name)
    model = [fn for fn in app.fns.values() if fn.concurrency_id == "model"]
    assert len(model) == 10 and all(fn.concurrency_limit == 1 for fn in model)


def test_templates_are_static_and_state_is_plain(app: gr.Blocks) -> None:
    for block in app.blocks.values():
        if isinstance(block, gr.HTML):
            assert "${" not in block.html_template and "{{" not in block.html_template
        if isinstance(block, gr.State):
            assert isinstance(block.value, str)


def test_launch_is_hardened_and_fetches_nothing_from_elsewhere() -> None:
    options = launch_options(FakeEngine())
    assert options["show_error"] is False and options["strict_cors"] is True and options["allowed_paths"] == []
    assert options["blocked_paths"] and options["ssr_mode"] is False and options["enable_monitoring"] is False
    assert "http://" not in options["head"] and "https://" not in options["head"]
    assert "fonts.googleapis" not in str(options["theme"]._font_css) and not options["theme"]._stylesheets
    assert theme.katex("js") and theme.katex("css"), "this gradio has no KaTeX module: formulas would stay LaTeX"
    assert theme.plotly_script() is not None


# ------------------------------------------------------------------ endpoints
def test_the_endpoints_give_plain_json(desk: Desk) -> None:
    receipt = api.solve(desk, ANN, rollouts=4)
    assert receipt["answer"] and receipt["sentence"] and len(receipt["traces"]) == 8
    made = api.distil(desk, ANN, steps=2)
    assert made["kept"] and made["memory_id"] in desk.engine.bank
    assert [row["id"] for row in api.memories(desk, "Ann has")] == [made["memory_id"]]
    assert api.search(desk, ANN, 2)["hits"][0]["memory_id"] == made["memory_id"]
    assert api.quarantine(desk, made["memory_id"], "x") and api.memory(desk, made["memory_id"])["quarantined"]
    api.release(desk, made["memory_id"])
    with pytest.raises(gr.Error, match="whole id"):
        api.delete(desk, made["memory_id"][:6])
    assert api.delete(desk, made["memory_id"]) not in desk.engine.bank
    json.dumps([receipt, made])
    for call in (lambda: api.solve(desk, " "), lambda: api.memory(desk, "m000nothere"), lambda: api.search(desk, "")):
        with pytest.raises(gr.Error):
            call()


def test_runs_of_several_visitors_do_not_mix(desk: Desk) -> None:
    results: dict[str, Receipt | None] = {}

    def one(name: str, text: str) -> None:
        asked(desk, text, who=visitor(name), mode="off")
        results[name] = solve.last_receipt(desk.visit(visitor(name)))

    threads = [threading.Thread(target=one, args=(f"v{i}", f"{i} plus {i}?")) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {name: r.problem.text for name, r in results.items()} == {f"v{i}": f"{i} plus {i}?" for i in range(4)}
