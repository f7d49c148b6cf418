"""What the listeners of the Memories panel send: the parts they name, and the points with a page that opens on the map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.ui import arrival, map_actions, map_handlers, map_wiring, memories
from latentmem.ui.session import Desk, bind

from .fake_engine import FakeEngine
from .memory_samples import placed, sent, shop_desk, wanted
from .ui_samples import ANN, LOOK, visitor


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_desk()


def listened(desk: Desk, handler: Callable[..., Any], names: tuple[str, ...], *given: Any) -> dict[str, Any]:
    """What the page is sent by a listener, by name."""
    answer = bind(map_wiring.part(handler, names), desk)(*given, request=visitor())
    answer = [answer] if len(names) == 1 else answer
    assert len(answer) == len(names)
    return {n: v for n, v in zip(names, answer, strict=True) if v != gr.skip()}


def test_each_listener_sends_what_its_handler_sets_and_no_more(shops: Desk) -> None:
    one = shops.engine.bank.infos()[2].id
    event = gr.EventData(None, {"id": one})
    assert listened(shops, map_handlers.want, map_wiring.DRAWN, *LOOK, "").keys() >= {"map", "trust"}
    wanted(shops)
    assert listened(shops, map_handlers.want, map_wiring.DRAWN, *LOOK, one).keys() >= {"map", "points", "paint", "lit"}
    assert listened(shops, map_handlers.explain, map_wiring.EXPLAINED, *LOOK, "").keys() == {"extras", "trust"}
    assert listened(shops, map_handlers.search, map_wiring.FOUND, "pens", *LOOK[1:], one).keys() == {"table", "lit", "choice"}
    assert listened(shops, map_handlers.recolour, ("notice", "paint"), *LOOK).keys() == {"paint"}
    for handler, given in ((memories.clicked, (*LOOK, event)), (memories.choose, (*LOOK, one)), (memories.shut, (*LOOK, one)),
                           (memories.located, (*LOOK, one))):
        assert listened(shops, handler, map_wiring.OPENED, *given).keys() >= {"map", "page", "chosen", "actions"}
    tag = gr.EventData(None, {"do": "untag", "value": "none"})
    assert "page" in listened(shops, map_actions.act, map_wiring.ANNOTATED, *LOOK, one, tag)
    assert listened(shops, map_actions.near_words, ("words",), one).keys() == {"words"}
    picked = gr.EventData(None, {"stamp": "?", "bits": ""})
    assert listened(shops, map_handlers.picked, map_wiring.PICKED, "", picked).keys() == {"notice", "selected", "bulk", "picked"}


def test_a_part_that_would_be_lost_is_a_bug(shops: Desk) -> None:
    with pytest.raises(AssertionError, match="does not send"):
        map_wiring.part(memories.shut, ("map",))(shops, *LOOK, "", visitor())


def test_a_failed_projection_and_a_star_elsewhere_still_fit_their_listeners() -> None:
    desk = Desk(FakeEngine())
    assert listened(desk, map_handlers.want, map_wiring.DRAWN, "", "source", "input", "tsne", "")["points"]["n"] == 0
    placed(desk, ANN, ("", "source", "prompt", "pca"))
    assert "notice" in listened(desk, memories.located, map_wiring.OPENED, "", "source", "prompt", "pca", "")


def test_the_points_come_with_a_page_that_opens_on_the_map(shops: Desk) -> None:
    one = shops.engine.bank.infos()[2].id
    assert not sent(arrival.show_map(shops, "", visitor())) & {"points", "paint"}
    for who in (visitor("b", memory=one), visitor("c", panel="memories"), visitor("d", memory="m000nothere")):
        first = arrival.show_map(shops, "", who)
        assert first.points["n"] == 16 and first.points["stamp"] == first.paint["stamp"] == first.map["stamp"]
        assert first.lit["bits"] is None
    assert "points" not in sent(arrival.show_map(Desk(FakeEngine()), "", visitor("e", panel="memories"))), "nothing to draw"
