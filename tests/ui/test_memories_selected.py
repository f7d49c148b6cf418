"""Many memories at once: selected on the map, shown, tagged, exported. Without a browser and
without a model."""

from __future__ import annotations

import base64
import zipfile
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.bank import notes as bank_notes
from latentmem.ui.map import actions, handlers
from latentmem.ui.map.atlas import bits_of
from latentmem.ui.panels import memories
from latentmem.ui.session import AppSession
from tests.memory_samples import shop_desk, stamp_of, wanted
from tests.ui_samples import LOOK, text_of, visitor


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSession:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_desk()


def pick(desk: AppSession, rows: list[int], **changes: Any) -> memories.Picture:
    given = {"stamp": stamp_of(desk), "bits": base64.b64encode(bits_of(rows, 16)).decode()}
    return handlers.picked(desk, "", gr.EventData(None, given | changes), visitor())


def test_the_selected_are_shown_tagged_and_exported(shops: AppSession) -> None:
    wanted(shops)
    part = pick(shops, [0, 5, 15])
    assert "3 memories selected" in text_of(part.selected) and "Mean agreement" in text_of(
        part.selected
    )
    assert part.bulk["visible"] and text_of(part.selected).count("data-id=") == 3
    box, *shown = actions.tag_picked(shops, *LOOK, "", part.picked, "Trio", visitor())
    shown = memories.Picture(*shown)
    assert (
        box == ""
        and "3 memories got the tag “trio”" in text_of(shown.notice)
        and text_of(shown.selected).count("trio") == 3
    )
    update, said = actions.export_picked(shops, part.picked)
    assert "Exported 3 memories" in text_of(said) and zipfile.is_zipfile(update["value"])
    one = shops.engine.bank.infos()[0].id
    _, *shown = actions.untag_picked(shops, *LOOK, one, part.picked, "trio", visitor())
    assert "3 memories lost the tag" in text_of(
        memories.Picture(*shown).notice
    ) and not bank_notes.tags(shops.engine.bank)
    box, *shown = actions.tag_picked(shops, *LOOK, "", part.picked, " ", visitor())
    assert box == " " and "tag is empty" in text_of(memories.Picture(*shown).notice)
    nothing = pick(shops, [])
    assert nothing.selected == [] and not nothing.bulk["visible"] and nothing.picked == ""
    assert "Nothing is selected" in text_of(actions.export_picked(shops, "")[1])
    _, *shown = actions.tag_picked(shops, *LOOK, "", "", "x", visitor())
    assert "Nothing is selected" in text_of(memories.Picture(*shown).notice)


def test_a_selection_that_no_longer_fits_is_refused(shops: AppSession) -> None:
    wanted(shops)
    for changes in ({"stamp": "0" * 16}, {"bits": "§"}, {"bits": {"a": 1}}):
        part = pick(shops, [1], **changes)
        assert "select again" in text_of(part.notice) and part.picked == "", changes
    kept = pick(shops, [1]).picked
    memories.delete(shops, *LOOK, shops.engine.bank.infos()[0].id, visitor())
    wanted(shops)
    assert "select again" in text_of(handlers.show_selection(shops, kept).notice)


def test_tagging_keeps_the_picture_and_its_colours_follow(shops: AppSession) -> None:
    look = ("", "tags", "input", "pca")
    wanted(shops, look)
    before = stamp_of(shops)
    _, *shown = actions.tag_picked(shops, *look, "", pick(shops, [2]).picked, "new", visitor())
    painted = memories.Picture(*shown).paint
    assert painted["stamp"] == before == stamp_of(shops) and {
        g["name"]: g["count"] for g in painted["groups"]
    } == {"new": 1, "no tag": 15}
