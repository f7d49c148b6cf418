"""What the listeners of the Memories panel send: the parts they name, the points with a page that
opens on the map, and what happened elsewhere: answers, verdicts, memories that came or went."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any

import gradio as gr
import pytest

from latentmem.ui import build
from latentmem.ui.app import Page
from latentmem.ui.map import actions, handlers, panel_state
from latentmem.ui.map.panel_state import Picture, atlas_of
from latentmem.ui.panels import memories
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession
from tests.bank_samples import make_memory
from tests.fake_engine import FakeEngine
from tests.memory_samples import asks, click, placed, sent, shop_session, wanted
from tests.ui_samples import ANN, LOOK, asked, text_of, visitor

SHOP = "Ann buys 7 pens at $2 each. How much change?"


@pytest.fixture
def shops() -> AppSession:
    return shop_session()


@functools.cache
def panel_of(session: AppSession) -> memories.Memories:
    with gr.Blocks():
        panel = memories.create_memories(session)
    panel.page.update(solve_memory=gr.Dropdown(), solve_other=gr.Dropdown())
    return panel


def listened(
    session: AppSession,
    handler: Callable[..., Any],
    *more: Any,
    look: tuple[str, ...] = LOOK,
    chosen: str = "",
    data: Any = None,
) -> dict[str, Any]:
    """What the page is sent by a listener, by name."""
    panel = panel_of(session)
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
    assert listened(shops, handlers.search, look=look).keys() == {"table", "lit"}
    assert listened(shops, handlers.recolour).keys() == {"paint"}
    assert listened(shops, handlers.clicked, data={"id": one}).keys() >= opened
    for handler in (handlers.shut, memories.located):
        assert listened(shops, handler, chosen=one).keys() >= opened
    tag = {"do": "untag", "value": "none"}
    assert "page" in listened(shops, actions.act, chosen=one, data=tag)
    assert listened(shops, actions.near_words, chosen=one).keys() == {"words"}
    assert listened(shops, handlers.picked).keys() == {"selected", "bulk", "picked"}
    assert listened(shops, handlers.looked_at, "", "") == {}, "a single skip leaves all as it is"


def test_gradio_injects_the_request_and_the_event(shops: AppSession) -> None:
    from gradio.helpers import special_args

    listener = panel_of(shops).listener(handlers.clicked)
    event = gr.EventData(None, {"id": "m1"})
    values, *_ = special_args(listener, [*LOOK, ""], request="asks", event_data=event)  # type: ignore[arg-type]
    assert values[0] == "asks" and values[1]._data == {"id": "m1"} and values[2:] == [*LOOK, ""]


def test_a_receipt_is_shown_in_place_of_the_memorys_page(shops: AppSession) -> None:
    asked(shops, SHOP)
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
    asked(shops, SHOP)
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
        assert page.chosen == memory
        assert "7 pens" in text_of(page.body)
        assert len(page.points["ids"]) == 16
        assert f'data-receipt-open="{receipt.id}"' in text_of(page.page)
    shops.engine.bank.delete(one)
    page = memories.show_map(asks(shops, who=visitor("d", receipt=receipt.id)))
    assert page.chosen == ""
    assert "no longer in the bank" in text_of(page.page)
    assert "7 pens" in text_of(page.body)
    page = memories.show_map(asks(shops, who=visitor("e", receipt="r404")))
    assert "There is no receipt" in text_of(page.notice)
    assert page.body == []
    assert "Click a point" in text_of(page.page)


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
        assert len(first.points["ids"]) == 16
        assert first.points["stamp"] == first.paint["stamp"] == first.map["stamp"]
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
    for name in ("draw", "want", "explain", "recolour", "search"):
        assert modes[name] == {"always_last"}, name


def shown(session: AppSession, was: Picture, look: tuple[str, ...] = LOOK, **now: str) -> Picture:
    """The visitor chooses the tab; `was`: what the panel was sent before, `now`: what was opened
    since."""
    state = {"chosen": was.chosen, "slip": was.slip, "seen": was.seen} | now
    return handlers.looked_at(
        asks(session, look, chosen=state["chosen"]), state["slip"], state["seen"]
    )


def glanced(page: Any) -> str:
    """The bank at a glance, as far as it counts uses."""
    text = text_of(page)
    return " ".join(
        f"{kind} {text.split(f'<dt>{kind}</dt><dd>')[1].split('<')[0]}"
        for kind in ("Memories", "Tried", "Helped")
    )


# ------------------------------------------------------------------ the panel is looked at again
def test_the_table_and_the_glance_learn_of_answers_and_verdicts(shops: AppSession) -> None:
    first = memories.show_map(asks(shops))
    assert glanced(first.page) == "Memories 16 Tried 0 Helped 0" and not sent(
        shown(shops, first)
    ), "nothing happened"
    asked(shops, SHOP)
    part = shown(shops, first)
    assert glanced(part.page) == "Memories 16 Tried 1 Helped 0"
    assert part.table != first.table
    assert part.table
    assert any(d.get("name") == "your problem" for d in part.map["data"]), (
        "and the star of the answer is there"
    )
    assert not sent(shown(shops, part)), "once"
    Solve(shops).said_right(visitor())
    again = shown(shops, part)
    helped = sum(i.counters.helped for i in shops.engine.bank.infos())
    assert glanced(again.page).endswith(f"Tried 1 Helped {helped}") and again.seen != part.seen
    shops.engine.bank.put(make_memory(5))
    assert glanced(shown(shops, again).page).startswith("Memories 17")


def test_a_search_and_an_open_memory_stay(shops: AppSession) -> None:
    first = memories.show_map(asks(shops))
    asked(shops, SHOP)
    one = shops.engine.bank.receipts()[0].used.memory_id
    part = shown(shops, first, ("pens ann", "source", "input", "pca"), chosen=one)
    assert text_of(part.table).count("data-id=") == 2
    assert "Tried</dt><dd>1" in text_of(part.body)
    assert part.chosen == one
    assert not sent(part) & {"words", "sure", "notice", "points", "selected", "picked"}, (
        "what else is open there stays"
    )
    slip = shops.engine.bank.receipts()[0].id
    part = shown(shops, first, chosen=one, slip=slip)
    assert part.slip == slip
    assert "How it was used" not in text_of(part.body)
    assert "7 pens" in text_of(part.body)
    shops.engine.bank.delete(one)
    assert "no memory" in text_of(shown(shops, first, chosen=one).notice), (
        "and it is said when it is gone"
    )


def test_colours_that_answers_change_come_with_it(shops: AppSession) -> None:
    first = memories.show_map(asks(shops))
    wanted(shops)
    asked(shops, SHOP)
    assert "paint" in sent(shown(shops, first, ("", "helped", "input", "pca")))
    assert "paint" not in sent(shown(shops, first))


def test_a_page_that_is_still_being_loaded_is_left_alone(shops: AppSession) -> None:
    """gradio says that a tab is chosen at the very start, too, when the address has yet to open a
    memory."""
    assert not sent(handlers.looked_at(asks(shops), "", ""))


def test_the_tab_asks_when_it_is_chosen() -> None:
    app = build(shop_session().engine)  # type: ignore[arg-type]
    tab = next(b for b in app.blocks.values() if isinstance(b, gr.Tab) and b.id == "memories")
    fn = next(f for f in app.fns.values() if (tab._id, "select") in f.targets)
    assert len(fn.outputs) == len(Picture._fields) and not fn.queue and fn.inputs[-1] in fn.outputs


def test_closing_a_memory_counts_anew(shops: AppSession) -> None:
    first = memories.show_map(asks(shops))
    one = shops.engine.bank.infos()[2].id
    asked(shops, SHOP)
    for closed in (handlers.shut(asks(shops, chosen=one)), click(shops, {"id": ""})):
        assert glanced(closed.page) == "Memories 16 Tried 1 Helped 0" != glanced(first.page)


def test_what_is_written_on_the_way_is_seen_another_time(
    shops: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state that a page is said to show is read before its rows."""
    order: list[str] = []
    real = shops.engine.bank.infos
    monkeypatch.setattr(
        shops.engine.bank, "infos", lambda *a, **k: (order.append("rows"), real(*a, **k))[1]
    )
    state = shops.engine.bank.stamp
    monkeypatch.setattr(shops.engine.bank, "stamp", lambda: (order.append("stamp"), state())[1])
    panel_state.picture(asks(shops))
    assert order[0] == "stamp" and "rows" in order


def test_memories_without_a_place_are_counted_now(shops: AppSession) -> None:
    wanted(shops, ("", "source", "kv", "pca"))
    sheet = atlas_of(shops).ready("kv", "pca")
    shops.engine.bank.put(make_memory(3))  # of another model
    assert atlas_of(shops).ready("kv", "pca") is sheet
    look = ("", "source", "kv", "pca")
    assert "1 memory has no place here" in text_of(click(shops, {"id": ""}, look).trust)
    shops.engine.bank.delete(make_memory(3).id)
    assert "no place here" not in text_of(click(shops, {"id": ""}, look).trust)


# ------------------------------------------------------------------ Place it, after an answer
def test_place_it_again_places_the_problem_of_the_star(shops: AppSession) -> None:
    asked(shops, SHOP)
    look = ("", "source", "kv", "pca")
    assert "press <b>Place</b> again" in text_of(click(shops, {"id": ""}, look).warning)
    part = placed(shops, "", look)
    assert "7 pens" in part.map["data"][-1]["text"][0]
    assert not text_of(part.notice)
    assert "<b>Place</b>" not in text_of(part.warning)
    prompt = ("", "source", "prompt", "pca")
    wanted(shops, prompt)
    warned = text_of(click(shops, {"id": ""}, prompt).warning)
    assert "has no soft prompt" in warned and "<b>Place</b>" not in warned
    assert "no soft prompt" in text_of(placed(shops, " ", prompt).notice)
    handlers.clear(asks(shops))
    assert "The problem is empty" in text_of(placed(shops, " ", look).notice), (
        "without a star there is nothing to place"
    )


# ------------------------------------------------------------------ a receipt is forgotten
def pressed(session: AppSession, chosen: str, value: str) -> dict[str, Any]:
    return listened(session, actions.act, chosen=chosen, data={"do": "forget", "value": value})


def test_a_receipt_is_forgotten(shops: AppSession) -> None:
    asked(shops, SHOP)
    slip = shops.engine.bank.receipts()[0]
    one, bank = slip.used.memory_id, shops.engine.bank
    opened = handlers.show_receipt(asks(shops, chosen=one, data={"id": slip.id}))
    assert f'data-do="forget" data-value="{slip.id}"' in text_of(opened.body)
    gone = pressed(shops, one, slip.id)
    assert bank.receipts() == [] and gone["slip"] == "" and "Forgotten" in text_of(gone["notice"])
    assert "How it was used" in text_of(gone["body"])
    assert "data-receipt=" not in text_of(gone["body"]) + text_of(gone["page"])
    assert bank.info(one).counters.used == 1, "what it counted stays"
    assert "There is no receipt" in text_of(pressed(shops, one, slip.id)["notice"])
    assert "empty" in text_of(pressed(shops, one, "")["notice"]) and bank.receipts() == []


def test_a_receipt_without_a_memory_is_forgotten_too() -> None:
    session = AppSession(FakeEngine())
    asked(session, SHOP)
    slip = session.engine.bank.receipts()[0].id
    page = memories.show_map(asks(session, who=visitor("b", receipt=slip)))
    assert page.slip == slip and page.chosen == "" and "Forget this receipt" in text_of(page.body)
    gone = pressed(session, "", slip)
    assert session.engine.bank.receipts() == [] and gone["body"] == []
    assert 'data-address=""' in text_of(gone["page"])


def test_annotating_closes_the_receipt_for_the_state_of_the_page_too(shops: AppSession) -> None:
    asked(shops, SHOP)
    slip = shops.engine.bank.receipts()[0]
    part = actions.add_tag(asks(shops, chosen=slip.used.memory_id), "odd")
    assert part.slip == "" and "How it was used" in text_of(part.body)


def test_foreign_ids_are_text_in_the_buttons() -> None:
    from latentmem.ui.views.receipt import forget

    html = text_of(forget('"><img src=x>'))
    assert "<img" not in html and html.count("data-value=") == 1
