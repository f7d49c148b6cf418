"""The Memories panel without a browser, against an engine without a model."""

from __future__ import annotations

import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from latentmem.bank import Overlay
from latentmem.bank import notes as bank_notes
from latentmem.records import Event, Status
from latentmem.ui.map import actions, handlers, panel_state, projection
from latentmem.ui.map.panel_state import Picture, atlas_of
from latentmem.ui.panels.distil import Distil
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
from tests.memory_samples import asks, click, drawn, placed, sent, shop_session, stamp_of, wanted
from tests.ui_samples import ANN, LOOK, asked, distilled, new_session, text_of, visitor


@pytest.fixture
def session() -> AppSession:
    return new_session()


@pytest.fixture
def shops() -> AppSession:
    return shop_session()


# ------------------------------------------------------------------ opening
def test_a_click_opens_a_memory_and_nonsense_does_not(session: AppSession) -> None:
    info = session.engine.bank.infos()[0]
    opened = click(session, {"id": info.id})
    assert opened.chosen == info.id
    assert f'data-address="{info.id}"' in text_of(opened.page)
    assert opened.actions["visible"]
    assert len(opened.map["annotations"]) == 1  # the edge to the other memory
    assert opened.map["open"] == info.id and sorted(opened.map["lit"]) == [0, 1]
    for bad in ({"id": "m000nothere"}, {"id": {"path": "/etc/passwd"}}, {"id": 3}, {"id": None}):
        shut = click(session, bad)
        assert shut.chosen == "" and not shut.actions["visible"] and "alert" in text_of(shut.notice)
    for nothing in ({}, ["x"], {"id": ""}):
        assert click(session, nothing).chosen == "" and not text_of(click(session, nothing).notice)
    json.dumps(opened.map)


def test_a_click_sends_neither_the_points_nor_the_table(shops: AppSession) -> None:
    wanted(shops)
    opened = click(shops, {"id": shops.engine.bank.infos()[3].id})
    assert not sent(opened) & {
        "points",
        "paint",
        "lit",
        "extras",
        "table",
        "solve_memory",
        "solve_other",
    }
    assert len(json.dumps(opened.map)) < 2000


def test_a_click_does_not_read_the_bank_again(
    shops: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted(shops)
    one = shops.engine.bank.infos()[3].id
    shops.engine.bank.record(Event(one, "used"))  # as each solved problem does
    for name in ("infos", "keys"):
        monkeypatch.setattr(shops.engine.bank, name, lambda *a, **k: pytest.fail("read again"))
    assert click(shops, {"id": one}).chosen == one


def test_a_problem_is_placed_with_edges_to_its_neighbours(session: AppSession) -> None:
    last = placed(session, ANN, LOOK)
    assert len(last.map["annotations"]) == 2 and any(
        d.get("name") == "your problem" for d in last.map["data"]
    )
    assert "true similarities" in text_of(last.trust)
    assert "Ann has 3 cats" in last.map["data"][-1]["text"][0]
    # the star was placed by another kind of key
    other = panel_state.picture(asks(session, ("", "source", "kv", "pca")))
    assert not any(
        d.get("name") == "your problem" for d in other.map["data"]
    ) and "placed by another" in text_of(other.warning)
    gone = click(session, {"id": "", "star": False})
    assert gone.map["star"] is None
    placed(session, ANN)
    cleared = handlers.clear(asks(session))
    assert cleared.ask == "" and not cleared.map["annotations"]
    assert "empty" in text_of(placed(session, " ", LOOK).notice)
    assert "no soft prompt" in text_of(placed(session, ANN, ("", "source", "prompt", "pca")).notice)


def test_the_receipt_leads_to_the_map(session: AppSession) -> None:
    last = asked(session)[-1]
    assert 'data-memory="' in text_of(last.receipt)
    opened = click(session, {"id": session.engine.bank.infos()[0].id})
    assert any(d.get("name") == "your problem" for d in opened.map["data"])
    shut = handlers.shut(asks(session, chosen=opened.chosen))
    assert shut.chosen == "" and any(d.get("name") == "your problem" for d in shut.map["data"]), (
        "the star stays"
    )


def test_an_empty_bank_is_shown_kindly() -> None:
    session = AppSession(FakeEngine())
    picture = panel_state.picture(asks(session))
    assert "No memory yet" in text_of(picture.table) and picture.map["data"] == []
    for space in ("input", "kv", "prompt"):
        first, second = wanted(session, ("", "source", space, "pca"))
        assert "ids" not in first.points and not sent(second)


def test_what_cannot_be_read_is_one_sentence(session: AppSession) -> None:
    session.engine.bank.close()
    picture = panel_state.picture(asks(session))
    assert "is closed" in text_of(picture.notice) and "alert" in text_of(picture.notice)
    assert "is closed" in text_of(handlers.search(asks(session)).notice)


# ------------------------------------------------------------------ the map's data
def test_the_points_come_first_and_what_explains_them_after(shops: AppSession) -> None:
    first, second = wanted(shops)
    assert len(first.points["x"]) == len(first.points["y"]) == 16 and first.extras == gr.skip()
    assert (
        first.points["stamp"]
        == first.paint["stamp"]
        == first.map["stamp"]
        == second.extras["stamp"]
        == stamp_of(shops)
    )
    assert set(first.points["ids"]) == {i.id for i in shops.engine.bank.infos()}
    assert len(first.points["names"]) == 16
    assert "Trustworthiness" in text_of(second.trust) and "Trustworthiness" not in text_of(
        first.trust
    )
    words = " ".join(a["text"] for a in second.extras["labels"])
    assert "pens" in words or "cups" in words
    json.dumps([p._asdict() for p in (first, second)])
    assert "Trustworthiness" in text_of(wanted(shops)[0].trust), "known from now on"


def test_other_colours_leave_the_points(shops: AppSession) -> None:
    assert not sent(handlers.recolour(asks(shops, ("", "age", "input", "pca")))), (
        "no picture, nothing to colour"
    )
    wanted(shops)
    part = handlers.recolour(asks(shops, ("", "age", "input", "pca")))
    assert sent(part) == {"paint"} and len(part.paint["codes"]) == 16


def test_a_search_narrows_the_table_and_lights_the_map(shops: AppSession) -> None:
    wanted(shops)
    bank_notes.tag(shops.engine.bank, [shops.engine.bank.infos()[0].id], "golden")
    for words, n in (("pens ann", 2), ("golden", 1), ("zebra", 0), ("", 16)):
        part = handlers.search(asks(shops, (words, "source", "input", "pca")))
        assert sent(part) == {"table", "lit"} and text_of(part.table).count("data-id=") == n
        lit = part.lit["rows"]
        assert lit is None if not words else len(lit) == n
    assert len(wanted(shops, ("pens ann", "source", "input", "pca"))[0].lit["rows"]) == 2


@pytest.mark.parametrize("space", ["input", "kv", "prompt"])
@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_every_space_and_projection(
    shops: AppSession, space: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "_computed", quick_method)
    look = ("", "source", space, method)
    parts = wanted(shops, look)
    points = parts[0].points
    assert len(points["ids"]) == 16 and parts[-1].extras["stamp"] == points["stamp"]
    one = shops.engine.bank.infos()[5].id
    opened = click(shops, {"id": one}, look)
    assert len(opened.map["annotations"]) == 5 and opened.map["stamp"] == points["stamp"]
    assert all(-1 <= float(a["text"]) <= 1 for a in opened.map["annotations"])
    if space != "prompt":
        star = placed(shops, "Ann buys 2 pens", look)
        assert star.map["star"] is not None and (
            "between its nearest" in text_of(star.warning)
        ) == (method == "tsne")


def quick_method(keys: np.ndarray, method: str):
    yield Status("Computing the picture", 1, 2)
    return np.asarray(keys[:, :2], np.float32)


def test_a_slow_projection_shows_progress_and_a_click_meanwhile_does_not_start_it(
    shops: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, computed = threading.Event(), []

    def slow_method(keys: np.ndarray, method: str):
        computed.append(method)
        yield Status("Computing the picture", 1, 2)
        assert go_on.wait(30), "the page was to draw this first"
        return np.asarray(keys[:, :2], np.float32)

    monkeypatch.setattr(projection, "_computed", slow_method)
    look = ("", "source", "input", "tsne")
    assert click(shops, {"id": ""}, look).map["stamp"] == "?" and computed == [], (
        "the page then asks for it"
    )
    drawing = handlers.draw(asks(shops, look))
    assert next(drawing) == gr.skip() and "Computing the picture" in text_of(next(drawing))
    assert click(shops, {"id": ""}, look).map["stamp"] == "?", "it is not there yet"
    go_on.set()
    list(drawing)
    assert drawn(shops, look) == [] and computed == ["tsne"], "it is there"


def test_a_projection_that_fails_leaves_the_map_with_pca(session: AppSession) -> None:
    parts = wanted(session, ("", "source", "input", "tsne"))
    assert "t-SNE needs 5 memories and the map has 2" in text_of(parts[0].notice)
    assert parts[0].method == "pca" and len(parts[0].points["ids"]) == 2


def test_the_projection_is_computed_once_for_the_same_memories(session: AppSession) -> None:
    panel_state.picture(asks(session))
    sheet = atlas_of(session).ready("input", "pca")
    panel_state.picture(asks(session, ("x", "age", "input", "pca")))
    click(session, {"id": session.engine.bank.infos()[0].id})
    assert atlas_of(session).ready("input", "pca") is sheet
    distilled(session), Distil(session).keep(visitor()), panel_state.picture(asks(session))
    assert len(atlas_of(session).ready("input", "pca").names) == 3


def test_visitors_with_banks_of_their_own_have_maps_of_their_own(session: AppSession) -> None:
    other = AppSession(FakeEngine(bank=Overlay(session.engine.bank)))  # type: ignore[arg-type]
    distilled(other), Distil(other).keep(visitor())
    assert len(wanted(other)[0].points["ids"]) == 3 and len(wanted(session)[0].points["ids"]) == 2
    shared = session.engine.bank.infos()[0].id
    assert click(other, {"id": shared}).delete["interactive"] is False
    mine = next(i.id for i in other.engine.bank.infos() if i.id not in session.engine.bank)
    assert click(other, {"id": mine}).delete["interactive"] is True


# ------------------------------------------------------------------ one memory
def test_quarantine_release_delete(session: AppSession) -> None:
    name = session.engine.bank.infos()[0].id
    shut = actions.quarantine(asks(session, chosen=name))
    assert session.engine.bank.info(name).quarantined
    assert shut.release["visible"]
    assert not shut.quarantine["visible"]
    assert "quarantined" in text_of(shut.page)
    assert actions.release(asks(session, chosen=name)).quarantine["visible"]
    gone = actions.delete(asks(session, chosen=name))
    assert name not in session.engine.bank
    assert gone.chosen == ""
    assert "Deleted" in text_of(gone.notice)
    assert "alert" in text_of(actions.delete(asks(session, chosen=name)).notice)


def test_quarantine_and_release_send_other_colours(shops: AppSession) -> None:
    first, _ = wanted(shops)
    name = first.points["ids"][2]
    shut = actions.quarantine(asks(shops, chosen=name))
    free = actions.release(asks(shops, chosen=name))
    for part, grey in ((shut, [1]), (free, [])):
        assert [g["count"] for g in part.paint["groups"] if g["name"] == "quarantined"] == grey
        assert part.paint["stamp"] == first.points["stamp"] and part.points == gr.skip(), (
            "the points stay"
        )
    codes = shut.paint["codes"]
    assert [i for i, c in enumerate(codes) if shut.paint["groups"][c]["name"] == "quarantined"] == [
        2
    ]
    assert not sent(actions.delete(asks(shops, chosen=name))) & {"paint"}, (
        "without it it is another map"
    )
    assert not sent(actions.quarantine(asks(shops, chosen=name))) & {"paint"}, "it is gone"


def test_tags_and_notes_of_the_open_memory(session: AppSession) -> None:
    name = session.engine.bank.infos()[0].id
    part = actions.add_tag(asks(session, chosen=name), "Teach first")
    assert part.tag == ""
    assert "teach first" in text_of(part.page)
    assert "teach first" in text_of(part.table)
    part = actions.add_note(asks(session, chosen=name), "<b>odd</b>")
    assert part.note == "" and "&lt;b&gt;odd" in text_of(part.body)
    part = actions.add_note(asks(session, chosen=name), "  ")
    assert part.note == "  " and "note is empty" in text_of(part.notice)
    note = bank_notes.notes(session.engine.bank)[name][0].id
    for do, value in (("remove-note", note), ("untag", "teach first")):
        last = act(session, name, {"do": do, "value": value})
    assert "teach first" not in text_of(last.page) and not bank_notes.notes(session.engine.bank)
    assert "no note" in text_of(act(session, name, {"do": "remove-note", "value": note}).notice)
    for nonsense in ({}, {"do": "delete"}, ["x"], {"do": {"a": 1}}):
        assert not sent(act(session, name, nonsense))
    assert "Open a memory first" in text_of(actions.add_tag(asks(session), "x").notice)


def act(session: AppSession, name: str, data: Any) -> Picture:
    return actions.act(asks(session, chosen=name, data=data))


def test_the_nearest_words_need_the_model(session: AppSession) -> None:
    name = session.engine.bank.infos()[0].id
    assert "only neighbours" in text_of(actions.near_words(asks(session, chosen=name)).words)
    session.engine.shared["ready"] = False
    assert "not loaded yet" in text_of(actions.near_words(asks(session, chosen=name)).words)
    assert "Open a memory first" in text_of(actions.near_words(asks(session)).words)


def test_export_and_import(session: AppSession) -> None:
    update, said = actions.export_all(asks(session))
    assert zipfile.is_zipfile(update["value"]) and "Exported 2 memories" in text_of(said)
    peft, _ = actions.export_peft(asks(session, chosen=session.engine.bank.infos()[0].id))
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(
        zipfile.ZipFile(peft["value"]).namelist()
    )
    other = AppSession(FakeEngine())
    assert "Added 2 memories; 0 were already" in text_of(
        actions.import_zip(asks(other), update["value"]).notice
    )
    again = actions.import_zip(asks(other), update["value"])
    assert "Added 0 memories; 2 were" in text_of(again.notice)
    other.engine.bank.delete(other.engine.bank.infos()[0].id)
    third = actions.import_zip(asks(other), update["value"])
    assert (
        "Added 1 memory; 1 was already there. What was added is on probation: it answers once"
        in (text_of(third.notice))
    )
    told: list[str] = []
    known = other.engine.bank.infos()[0].id
    other.engine.import_adapter = lambda folder, text: told.append(text) or known
    fourth = actions.import_zip(asks(other), peft["value"])
    assert f"Imported the adapter as memory {known}, without a vote" in text_of(fourth.notice)
    other.engine.shared["ready"] = False
    fifth = actions.import_zip(asks(other), peft["value"])
    assert "The model is not loaded yet" in text_of(fifth.notice) and len(told) == 1
    bad = Path(update["value"]).with_name("bad.zip")
    bad.write_bytes(b"no zip")
    assert "alert" in text_of(actions.import_zip(asks(other), str(bad)).notice)
    assert not actions.export_peft(asks(session, chosen="m000nothere"))[0]["visible"]


# ------------------------------------------------------------------ many at once
def pick(session: AppSession, rows: list[int]) -> Picture:
    infos = session.engine.bank.infos()
    return handlers.picked(asks(session, data={"ids": [infos[row].id for row in rows]}))


def test_the_selected_are_shown_tagged_and_exported(shops: AppSession) -> None:
    wanted(shops)
    part = pick(shops, [0, 5, 15])
    assert "3 memories selected" in text_of(part.selected) and "Mean agreement" in text_of(
        part.selected
    )
    assert part.bulk["visible"] and text_of(part.selected).count("data-id=") == 3
    shown = actions.tag_picked(asks(shops), part.picked, "Trio")
    assert shown.bulk_tag == ""
    assert "3 memories got the tag “trio”" in text_of(shown.notice)
    assert text_of(shown.selected).count("trio") == 3
    update, said = actions.export_picked(asks(shops), part.picked)
    assert "Exported 3 memories" in text_of(said) and zipfile.is_zipfile(update["value"])
    one = shops.engine.bank.infos()[0].id
    shown = actions.untag_picked(asks(shops, chosen=one), part.picked, "trio")
    assert "3 memories lost the tag" in text_of(shown.notice) and not bank_notes.tags(
        shops.engine.bank
    )
    shown = actions.tag_picked(asks(shops), part.picked, " ")
    assert shown.bulk_tag == " " and "tag is empty" in text_of(shown.notice)
    nothing = pick(shops, [])
    assert nothing.selected == [] and not nothing.bulk["visible"] and nothing.picked == ""
    assert "Nothing is selected" in text_of(actions.export_picked(asks(shops), "")[1])
    shown = actions.tag_picked(asks(shops), "", "x")
    assert "Nothing is selected" in text_of(shown.notice)


def test_what_is_no_longer_in_the_bank_is_no_longer_selected(shops: AppSession) -> None:
    for nonsense in ({}, {"ids": "m1"}, {"ids": {"a": 1}}, {"ids": [3, None]}):
        part = handlers.picked(asks(shops, data=nonsense))
        assert part.selected == [] and part.picked == "", nonsense
    kept = pick(shops, [0, 1]).picked
    actions.delete(asks(shops, chosen=shops.engine.bank.infos()[0].id))
    assert "1 memory selected" in text_of(handlers.show_selection(asks(shops), kept).selected)


def test_tagging_keeps_the_picture_and_its_colours_follow(shops: AppSession) -> None:
    look = ("", "tags", "input", "pca")
    wanted(shops, look)
    before = stamp_of(shops)
    shown = actions.tag_picked(asks(shops, look), pick(shops, [2]).picked, "new")
    painted = shown.paint
    assert painted["stamp"] == before == stamp_of(shops) and {
        g["name"]: g["count"] for g in painted["groups"]
    } == {"new": 1, "no tag": 15}
