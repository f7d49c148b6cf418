"""What the listeners of the Memories panel send: the parts they name, and the points with a page
that opens on the map."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.ui import build
from latentmem.ui.app import Page
from latentmem.ui.map import actions, handlers
from latentmem.ui.panels import memories
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine
from tests.memory_samples import asks, placed, sent, shop_session, wanted
from tests.ui_samples import ANN, LOOK, asked, text_of, visitor


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSession:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_session()


def listened(
    session: AppSession,
    handler: Callable[..., Any],
    *more: Any,
    look: tuple[str, ...] = LOOK,
    chosen: str = "",
    data: Any = None,
) -> dict[str, Any]:
    """What the page is sent by a listener, by name."""
    with gr.Blocks():
        panel = memories.create_memories(session)
    panel.page.update(solve_memory=gr.Dropdown(), solve_other=gr.Dropdown())
    names = {component: name for name, component in panel.page.items()}
    answer = panel.listener(handler)(visitor(), gr.EventData(None, data), *look, chosen, *more)
    return {} if answer == gr.skip() else {names[c]: value for c, value in answer.items()}


def test_each_listener_sends_what_its_handler_sets_and_no_more(shops: AppSession) -> None:
    one = shops.engine.bank.infos()[2].id
    opened = {"map", "page", "chosen", "actions"}
    assert listened(shops, handlers.want).keys() >= {"map", "trust"}
    wanted(shops)
    full = listened(shops, handlers.want, chosen=one)
    assert full.keys() >= {"map", "points", "paint", "lit"}
    assert len(json.loads(full["points"])["ids"]) == 16, "the map's data travels as text"
    assert listened(shops, handlers.explain).keys() == {"extras", "trust"}
    look = ("pens", *LOOK[1:])
    assert listened(shops, handlers.search, look=look).keys() == {"table", "lit", "choice"}
    assert listened(shops, handlers.recolour).keys() == {"paint"}
    assert listened(shops, handlers.clicked, data={"id": one}).keys() >= opened
    assert listened(shops, handlers.choose, one).keys() >= opened
    for handler in (handlers.shut, memories.located):
        assert listened(shops, handler, chosen=one).keys() >= opened
    tag = {"do": "untag", "value": "none"}
    assert "page" in listened(shops, actions.act, chosen=one, data=tag)
    assert listened(shops, actions.near_words, chosen=one).keys() == {"words"}
    assert listened(shops, handlers.picked).keys() == {"selected", "bulk", "picked"}
    assert listened(shops, handlers.looked_at, "", "") == {}, "a single skip leaves all as it is"


def test_gradio_injects_the_request_and_the_event(shops: AppSession) -> None:
    from gradio.helpers import special_args

    with gr.Blocks():
        listener = memories.create_memories(shops).listener(handlers.clicked)
    event = gr.EventData(None, {"id": "m1"})
    values, *_ = special_args(listener, [*LOOK, ""], request="asks", event_data=event)  # type: ignore[arg-type]
    assert values[0] == "asks" and values[1]._data == {"id": "m1"} and values[2:] == [*LOOK, ""]


def test_a_receipt_is_shown_in_place_of_the_memorys_page(shops: AppSession) -> None:
    asked(shops, "Ann buys 7 pens at $2 each. How much change?")
    receipt = shops.engine.bank.receipts()[0]
    assert receipt.used is not None
    one = receipt.used.memory_id
    page = text_of(listened(shops, handlers.clicked, data={"id": one})["body"])
    assert f'data-receipt="{receipt.id}"' in page and "How it was used" in page
    shown = listened(shops, handlers.show_receipt, chosen=one, data={"id": receipt.id})
    assert f'data-address="{one}" data-receipt-open="{receipt.id}"' in text_of(shown["page"])
    assert shown["chosen"] == one and not shown["notice"]
    body = text_of(shown["body"])
    assert "How it was used" not in body and "7 pens" in body
    assert f'data-memory="{one}">Back to the memory' in body
    gone = listened(shops, handlers.show_receipt, chosen=one, data={"id": "r404"})
    assert "There is no receipt" in text_of(gone["notice"])
    assert "How it was used" in text_of(gone["body"])
    for data in (None, {"id": None}, {"id": ["x"], "memory": {}}, {"id": "\ud800"}):
        listened(shops, handlers.show_receipt, chosen=one, data=data)


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
        page = memories.show_map(asks(shops, who=who))
        assert (
            page.chosen == memory
            and "7 pens" in text_of(page.body)
            and len(page.points["ids"]) == 16
        )
        assert f'data-receipt-open="{receipt.id}"' in text_of(page.page)
    shops.engine.bank.delete(one)
    page = memories.show_map(asks(shops, who=visitor("d", receipt=receipt.id)))
    assert (
        page.chosen == ""
        and "no longer in the bank" in text_of(page.page)
        and "7 pens" in text_of(page.body)
    )
    page = memories.show_map(asks(shops, who=visitor("e", receipt="r404")))
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
    handlers.clicked(asks(shops, data={"id": shops.engine.bank.infos()[2].id}, who=who))
    late = sent(memories.show_map(asks(shops, who=who)))
    assert "table" in late and not late & {
        "map",
        "page",
        "body",
        "chosen",
        "actions",
        "notice",
        "slip",
    }
    Page(shops).arrived("", who)
    assert sent(memories.show_map(asks(shops, who=who))) >= {"page", "chosen"}, (
        "a page that is loaded again begins anew"
    )


def test_a_failed_projection_and_a_star_elsewhere_still_fit_their_listeners() -> None:
    session = AppSession(FakeEngine())
    tsne, prompt = (("", "source", *look) for look in (("input", "tsne"), ("prompt", "pca")))
    assert not listened(session, handlers.want, look=tsne), (
        "no empty map instead of one that is still being made"
    )
    list(handlers.draw(asks(session, tsne)))
    assert "ids" not in json.loads(listened(session, handlers.want, look=tsne)["points"])
    placed(session, ANN, prompt)
    assert "notice" in listened(session, memories.located, look=prompt)


def test_the_points_come_with_a_page_that_opens_on_the_map(shops: AppSession) -> None:
    one = shops.engine.bank.infos()[2].id
    assert not sent(memories.show_map(asks(shops))) & {"points", "paint"}
    for who in (
        visitor("b", memory=one),
        visitor("c", panel="memories"),
        visitor("d", memory="m000nothere"),
    ):
        first = memories.show_map(asks(shops, who=who))
        assert (
            len(first.points["ids"]) == 16
            and first.points["stamp"] == first.paint["stamp"] == first.map["stamp"]
        )
        assert first.lit["rows"] is None
    assert "points" not in sent(
        memories.show_map(asks(AppSession(FakeEngine()), who=visitor("e", panel="memories")))
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
