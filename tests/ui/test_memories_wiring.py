"""What the listeners of the Memories panel send: the parts they name, and the points with a page
that opens on the map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.ui import app, build
from latentmem.ui.app import Page
from latentmem.ui.map import actions, handlers
from latentmem.ui.panels import memories
from latentmem.ui.panels import memories as map_wiring
from latentmem.ui.session import AppSession, bind
from tests.fake_engine import FakeEngine
from tests.memory_samples import placed, sent, shop_desk, wanted
from tests.ui_samples import ANN, LOOK, asked, text_of, visitor


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSession:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_desk()


def listened(
    desk: AppSession, handler: Callable[..., Any], names: tuple[str, ...], *given: Any
) -> dict[str, Any]:
    """What the page is sent by a listener, by name."""
    answer = bind(map_wiring.part(handler, names), desk)(*given, request=visitor())
    answer = [answer] if len(names) == 1 else answer
    assert len(answer) == len(names)
    return {n: v for n, v in zip(names, answer, strict=True) if v != gr.skip()}


def test_each_listener_sends_what_its_handler_sets_and_no_more(shops: AppSession) -> None:
    one = shops.engine.bank.infos()[2].id
    event = gr.EventData(None, {"id": one})
    assert listened(shops, handlers.want, map_wiring.DRAWN, *LOOK, "").keys() >= {"map", "trust"}
    wanted(shops)
    assert listened(shops, handlers.want, map_wiring.DRAWN, *LOOK, one).keys() >= {
        "map",
        "points",
        "paint",
        "lit",
    }
    assert listened(shops, handlers.explain, map_wiring.EXPLAINED, *LOOK, "").keys() == {
        "extras",
        "trust",
    }
    assert listened(shops, handlers.search, map_wiring.FOUND, "pens", *LOOK[1:], one).keys() == {
        "table",
        "lit",
        "choice",
    }
    assert listened(shops, handlers.recolour, ("notice", "paint"), *LOOK).keys() == {"paint"}
    for handler, given in (
        (memories.clicked, (*LOOK, event)),
        (memories.choose, (*LOOK, one)),
        (memories.shut, (*LOOK, one)),
        (memories.located, (*LOOK, one)),
    ):
        assert listened(shops, handler, map_wiring.NAMED, *given).keys() >= {
            "map",
            "page",
            "chosen",
            "actions",
        }
    tag = gr.EventData(None, {"do": "untag", "value": "none"})
    assert "page" in listened(shops, actions.act, map_wiring.ANNOTATED, *LOOK, one, tag)
    assert listened(shops, actions.near_words, ("words",), one).keys() == {"words"}
    picked = gr.EventData(None, {"stamp": "?", "bits": ""})
    assert listened(shops, handlers.picked, map_wiring.PICKED, "", picked).keys() == {
        "notice",
        "selected",
        "bulk",
        "picked",
    }


def test_a_receipt_is_shown_in_place_of_the_memorys_page(shops: AppSession) -> None:
    asked(shops, "Ann buys 7 pens at $2 each. How much change?")
    receipt = shops.engine.bank.receipts()[0]
    assert receipt.used is not None
    one = receipt.used.memory_id
    page = text_of(
        listened(shops, memories.clicked, map_wiring.NAMED, *LOOK, gr.EventData(None, {"id": one}))[
            "body"
        ]
    )
    assert f'data-receipt="{receipt.id}"' in page and "How it was used" in page
    shown = listened(
        shops,
        memories.show_receipt,
        map_wiring.NAMED,
        *LOOK,
        one,
        gr.EventData(None, {"id": receipt.id}),
    )
    assert (
        f'data-address="{one}" data-receipt-open="{receipt.id}"' in text_of(shown["page"])
        and shown["chosen"] == one
    )
    assert "How it was used" not in text_of(shown["body"]) and "7 pens" in text_of(shown["body"])
    assert (
        f'data-memory="{one}">Back to the memory' in text_of(shown["body"]) and not shown["notice"]
    )
    gone = listened(
        shops,
        memories.show_receipt,
        map_wiring.NAMED,
        *LOOK,
        one,
        gr.EventData(None, {"id": "r404"}),
    )
    assert "There is no receipt" in text_of(gone["notice"]) and "How it was used" in text_of(
        gone["body"]
    )
    for data in (None, {"id": None}, {"id": ["x"], "memory": {}}, {"id": "\ud800"}):
        listened(
            shops, memories.show_receipt, map_wiring.NAMED, *LOOK, one, gr.EventData(None, data)
        )


def test_the_address_opens_a_receipt(shops: AppSession) -> None:
    asked(shops, "Ann buys 7 pens at $2 each. How much change?")
    receipt = shops.engine.bank.receipts()[0]
    one, other = (
        receipt.used.memory_id,
        next(i.id for i in shops.engine.bank.infos() if i.id != receipt.used.memory_id),
    )
    for who, memory in (
        (visitor("b", receipt=receipt.id), one),
        (visitor("c", receipt=receipt.id, memory=other), other),
    ):
        Page(shops).arrived("", who)
        page = app.show_map(shops, "", who)
        assert page.chosen == memory and "7 pens" in text_of(page.body) and page.points["n"] == 16
        assert f'data-receipt-open="{receipt.id}"' in text_of(page.page)
    shops.engine.bank.delete(one)
    page = app.show_map(shops, "", visitor("d", receipt=receipt.id))
    assert (
        page.chosen == ""
        and "no longer in the bank" in text_of(page.page)
        and "7 pens" in text_of(page.body)
    )
    page = app.show_map(shops, "", visitor("e", receipt="r404"))
    assert (
        "There is no receipt" in text_of(page.notice)
        and page.body == []
        and "Click a point" in text_of(page.page)
    )


def test_the_first_picture_of_the_panel_does_not_close_what_was_opened_meanwhile(
    shops: AppSession,
) -> None:
    """The points of a page that opens on the map are there before; the answer for the whole panel
    may come later."""
    who = visitor("b", panel="memories")
    Page(shops).arrived("", who)
    memories.clicked(shops, *LOOK, gr.EventData(None, {"id": shops.engine.bank.infos()[2].id}), who)
    late = sent(app.show_map(shops, "", who))
    assert "table" in late and not late & set(map_wiring.OPENED)
    Page(shops).arrived("", who)
    assert sent(app.show_map(shops, "", who)) >= {"page", "chosen"}, (
        "a page that is loaded again begins anew"
    )


def test_a_part_that_would_be_lost_is_a_bug(shops: AppSession) -> None:
    with pytest.raises(AssertionError, match="does not send"):
        map_wiring.part(memories.shut, ("map",))(shops, *LOOK, "", visitor())


def test_a_failed_projection_and_a_star_elsewhere_still_fit_their_listeners() -> None:
    desk = AppSession(FakeEngine())
    drawn = desk, handlers.want, map_wiring.DRAWN, "", "source", "input", "tsne", ""
    assert not listened(*drawn), "no empty map instead of one that is still being made"
    list(handlers.draw(desk, "", "source", "input", "tsne", "", visitor()))
    assert listened(*drawn)["points"]["n"] == 0
    placed(desk, ANN, ("", "source", "prompt", "pca"))
    assert "notice" in listened(
        desk, memories.located, map_wiring.NAMED, "", "source", "prompt", "pca", ""
    )


def test_the_points_come_with_a_page_that_opens_on_the_map(shops: AppSession) -> None:
    one = shops.engine.bank.infos()[2].id
    assert not sent(app.show_map(shops, "", visitor())) & {"points", "paint"}
    for who in (
        visitor("b", memory=one),
        visitor("c", panel="memories"),
        visitor("d", memory="m000nothere"),
    ):
        first = app.show_map(shops, "", who)
        assert (
            first.points["n"] == 16
            and first.points["stamp"] == first.paint["stamp"] == first.map["stamp"]
        )
        assert first.lit["bits"] is None
    assert "points" not in sent(
        app.show_map(AppSession(FakeEngine()), "", visitor("e", panel="memories"))
    ), "nothing to draw"


def test_no_quick_hand_is_lost() -> None:
    """Gradio drops an event whose listener is still at work. What carries its own data comes each
    time; of what only reads the panel the last is made up for."""
    modes: dict[str, set[str]] = {}
    for fn in build(FakeEngine()).fns.values():
        if fn.fn is not None and fn.api_visibility != "public":
            modes.setdefault(fn.fn.__name__, set()).add(fn.trigger_mode)
    assert modes["picked"] == modes["show_receipt"] == {"multiple"}
    for name in ("draw", "want", "explain", "recolour", "search", "choose"):
        assert modes[name] == {"always_last"}, name
