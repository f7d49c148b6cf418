"""The map that a page gets before it can ask: what its lines hold, whose memories they show, and
which pages are told of it."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from latentmem.records import Problem
from latentmem.settings import Settings
from latentmem.ui import app as arrival
from latentmem.ui import build, launch_options, server
from latentmem.ui.map.panel_state import atlas_of, drawn
from latentmem.ui.panels.distil import Distil
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine, fill_bank
from tests.memory_samples import sent, shop_desk
from tests.ui_samples import ANN, distilled, visitor


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AppSession:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    return shop_desk()


def lines(desk: AppSession) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.first_picture(desk).splitlines()]


def test_the_two_lines_are_the_picture_that_the_page_would_ask_for(shops: AppSession) -> None:
    parts, words = lines(shops)
    asked = arrival.show_map(shops, "", visitor(panel="memories"))
    assert parts["paint"] == asked.paint and parts["lit"] == asked.lit
    assert parts["points"] | words == asked.points
    assert not {"ids", "names"} & parts["points"].keys(), "long names would hold up the picture"
    assert len(np.frombuffer(base64.b64decode(parts["points"]["xy"]), "<f4")) == 2 * 16


def test_points_that_the_page_has_are_not_sent_again(shops: AppSession) -> None:
    stamp = lines(shops)[1]["stamp"]
    again = arrival.show_map(shops, stamp, visitor(panel="memories"))
    assert "points" not in sent(again) and again.map["stamp"] == again.paint["stamp"] == stamp
    assert arrival.show_map(shops, "another", visitor(panel="memories")).points["n"] == 16


def test_the_lines_are_made_once_until_the_bank_changes(
    shops: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = server.first_picture(shops)
    monkeypatch.setattr(server, "drawn", lambda *_: pytest.fail("made again"))
    assert server.first_picture(shops) is first
    monkeypatch.setattr(server, "drawn", drawn)
    shops.engine.bank.delete(shops.engine.bank.infos()[0].id)
    assert lines(shops)[0]["points"]["n"] == 15


def test_a_bank_that_is_empty_or_cannot_be_read_gives_nothing(
    monkeypatch: pytest.MonkeyPatch, shops: AppSession
) -> None:
    assert server.first_picture(AppSession(FakeEngine())) == b""
    shops.engine.bank.close()
    assert server.first_picture(shops) == b""


def test_in_a_shared_app_nobody_gets_the_memories_of_others() -> None:
    engine = FakeEngine(Settings(hosted=True))
    fill_bank(engine, [Problem(f"{n} pens and {n} cups?", source="shops") for n in range(6)])
    desk, who = AppSession(engine), visitor("a", panel="memories")
    mine = desk.at(who)
    distilled(mine, ANN, who)
    Distil(mine).keep(who)
    parts, words = lines(desk)
    assert parts["points"]["n"] == 6 and set(words["ids"].split("\n")) == {
        i.id for i in engine.bank.infos()
    }
    own = arrival.show_map(mine, words["stamp"], who)
    assert own.points["n"] == 7, "who has an own memory is sent the points with it"
    assert "points" not in sent(
        arrival.show_map(desk.at(visitor("b")), words["stamp"], visitor("b", panel="memories"))
    )


def test_a_picture_that_two_ask_for_at_once_is_computed_once(shops: AppSession) -> None:
    from concurrent.futures import ThreadPoolExecutor

    atlas, seen = atlas_of(shops), []
    plain = atlas.sheet
    atlas.sheet = lambda *args: seen.append(atlas.ready(*args)) or plain(*args)  # type: ignore[method-assign]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: server.sheet_now(atlas, "input", "pca"), range(4)))
    assert len({id(sheet) for sheet in found}) == 1 and sum(sheet is None for sheet in seen) == 1


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    desk = shop_desk()
    app = build(desk.engine)
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(desk.engine))
    try:
        yield address
    finally:
        app.close(verbose=False)


def test_only_a_page_that_opens_on_the_map_is_told_to_fetch_it(url: str) -> None:
    for query, told in {
        "?memory=m0": True,
        "?panel=memories": True,
        "": False,
        "?panel=solve": False,
        "?memory=": False,
    }.items():
        with urllib.request.urlopen(f"{url}{query}") as page:
            assert (server.HINT in (page.headers.get_all("Link") or [])) is told, query
    with urllib.request.urlopen(f"{url}theme.css?memory=m0") as other:
        assert other.headers["Link"] is None
    with urllib.request.urlopen(f"{url}{server.ADDRESS}") as answer:
        assert [json.loads(line).get("stamp") is None for line in answer] == [True, False]
        assert (
            answer.headers["Content-Encoding"] is None
            and "store" not in answer.headers["Cache-Control"]
        )


def test_where_visitors_log_in_the_map_is_not_given_away(shops: AppSession) -> None:
    for app in (
        SimpleNamespace(auth={"a": "b"}, auth_dependency=None),
        SimpleNamespace(auth=None, auth_dependency=print),
    ):
        app.get_blocks = lambda: SimpleNamespace(latentmem_session=shops)
        assert server.answer(SimpleNamespace(app=app)).status_code == 404  # type: ignore[arg-type]
