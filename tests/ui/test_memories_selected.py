"""Many memories at once: selected on the map, shown, tagged, exported. Without a browser and
without a model."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from latentmem.bank import notes as bank_notes
from latentmem.ui.map import actions, handlers
from latentmem.ui.map.panel_state import Picture
from latentmem.ui.session import AppSession
from tests.memory_samples import asks, shop_desk, stamp_of, wanted
from tests.ui_samples import text_of


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSession:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_desk()


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
    assert (
        shown.bulk_tag == ""
        and "3 memories got the tag “trio”" in text_of(shown.notice)
        and text_of(shown.selected).count("trio") == 3
    )
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
