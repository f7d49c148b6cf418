"""The Memories panel tells of what happened elsewhere: answers, verdicts, memories that came or
went; and receipts are forgotten there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from latentmem.ui import build
from latentmem.ui.map import actions, handlers
from latentmem.ui.map.panel_state import Picture, atlas_of
from latentmem.ui.panels import memories
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession
from tests.bank_samples import make_memory
from tests.fake_engine import FakeEngine
from tests.memory_samples import asks, click, placed, sent, shop_session, wanted
from tests.ui.test_memories_wiring import listened
from tests.ui_samples import LOOK, asked, text_of, visitor

SHOP = "Ann buys 7 pens at $2 each. How much change?"


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSession:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_session()


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
    assert (
        glanced(part.page) == "Memories 16 Tried 1 Helped 0"
        and part.table != first.table
        and part.table
    )
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
    assert (
        text_of(part.table).count("data-id=") == 2
        and "Tried</dt><dd>1" in text_of(part.body)
        and part.chosen == one
    )
    assert not sent(part) & {"words", "sure", "notice", "points", "selected", "picked"}, (
        "what else is open there stays"
    )
    slip = shops.engine.bank.receipts()[0].id
    part = shown(shops, first, chosen=one, slip=slip)
    assert (
        part.slip == slip
        and "How it was used" not in text_of(part.body)
        and "7 pens" in text_of(part.body)
    )
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
    handlers.refresh(asks(shops))
    assert order[0] == "stamp" and "rows" in order


# ------------------------------------------------------------------ what names the open memory
def test_the_list_names_the_open_memory_and_none_when_it_is_closed(shops: AppSession) -> None:
    one, two = (i.id for i in shops.engine.bank.infos()[:2])
    assert click(shops, {"id": one}).choice["value"] == one
    assert handlers.choose(asks(shops), two).choice["value"] == two
    assert handlers.shut(asks(shops, chosen=two)).choice["value"] is None
    assert handlers.clear(asks(shops, chosen=two)).choice["value"] is None
    assert click(shops, {"id": one}, ("zebra", "source", "input", "pca")).choice["value"] is None, (
        "it lists what is found"
    )
    assert "choice" in listened(shops, handlers.clicked, data={"id": one})


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
    assert (
        "7 pens" in part.map["data"][-1]["text"][0]
        and not text_of(part.notice)
        and "<b>Place</b>" not in text_of(part.warning)
    )
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
def pressed(session: AppSession, chosen: str, do: str, value: str) -> dict[str, Any]:
    return listened(session, actions.act, chosen=chosen, data={"do": do, "value": value})


def test_a_receipt_is_forgotten_in_two_steps(shops: AppSession) -> None:
    asked(shops, SHOP)
    slip = shops.engine.bank.receipts()[0]
    one, bank = slip.used.memory_id, shops.engine.bank
    opened = handlers.show_receipt(asks(shops, chosen=one, data={"id": slip.id}))
    assert f'data-do="forget" data-value="{slip.id}"' in text_of(
        opened.body
    ) and "really-forget" not in text_of(opened.body)
    sure = pressed(shops, one, "forget", slip.id)
    question = text_of(sure["body"])
    assert (
        sure.keys() == {"body"}
        and 'data-do="really-forget"' in question
        and 'role="alert"' in question
    )
    assert sure["body"][:-1] == opened.body[:-1] and sure["body"][-1][0] == opened.body[-1][0], (
        "the receipt is still there"
    )
    assert pressed(shops, one, "spare-receipt", slip.id)["body"] == opened.body and bank.receipt(
        slip.id
    )
    gone = pressed(shops, one, "really-forget", slip.id)
    assert bank.receipts() == [] and gone["slip"] == "" and "Forgotten" in text_of(gone["notice"])
    assert "How it was used" in text_of(gone["body"]) and "data-receipt=" not in text_of(
        gone["body"]
    ) + text_of(gone["page"])
    assert bank.info(one).counters.used == 1, "what it counted stays"
    for do in ("forget", "really-forget", "spare-receipt"):
        assert "There is no receipt" in text_of(pressed(shops, one, do, slip.id)["notice"])
    assert (
        "empty" in text_of(pressed(shops, one, "really-forget", "")["notice"])
        and bank.receipts() == []
    )


def test_a_receipt_without_a_memory_is_forgotten_too() -> None:
    session = AppSession(FakeEngine())
    asked(session, SHOP)
    slip = session.engine.bank.receipts()[0].id
    page = memories.show_map(asks(session, who=visitor("b", receipt=slip)))
    assert page.slip == slip and page.chosen == "" and "Forget this receipt" in text_of(page.body)
    gone = pressed(session, "", "really-forget", slip)
    assert (
        session.engine.bank.receipts() == []
        and gone["body"] == []
        and 'data-address=""' in text_of(gone["page"])
    )


def test_annotating_closes_the_receipt_for_the_state_of_the_page_too(shops: AppSession) -> None:
    asked(shops, SHOP)
    slip = shops.engine.bank.receipts()[0]
    part = actions.add_tag(asks(shops, chosen=slip.used.memory_id), "odd")
    assert part.slip == "" and "How it was used" in text_of(part.body)


def test_foreign_ids_are_text_in_the_buttons() -> None:
    from latentmem.ui.views.receipt import forget

    html = text_of(forget('"><img src=x>', sure=True))
    assert "<img" not in html and html.count("data-value=") == 3
