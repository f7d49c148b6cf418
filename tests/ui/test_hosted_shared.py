"""What the visitors of a shared app share, the pictures of its bank, and what they must not: a
session, receipts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from latentmem.records import LatentmemError, Problem, Status
from latentmem.settings import Settings
from latentmem.ui import app, launch_options, server
from latentmem.ui.api import Endpoints
from latentmem.ui.map import actions, projection
from latentmem.ui.map.panel_state import atlas_of
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession
from tests.fake_engine import FakeEngine, fill_bank
from tests.memory_samples import SHOPS, drawn, sent
from tests.ui.test_hosted import desk, shared_engine  # noqa: F401 (a fixture)
from tests.ui_samples import ANN, LOOK, asked, distilled, text_of, visitor


# ------------------------------------------------------------------ one session for all who use the tools
def test_tools_and_a_shared_app_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        server, "find_spec", lambda name: object()
    )  # whether or not the extra is installed
    with pytest.raises(LatentmemError, match="LATENTMEM_MCP=0") as caught:
        launch_options(FakeEngine(Settings(mcp=True, hosted=True)))  # type: ignore[arg-type]
    assert str(caught.value).count(". ") == 0 and "one visitor" in str(caught.value)
    monkeypatch.undo()
    assert launch_options(shared_engine())["mcp_server"] is False  # type: ignore[arg-type]


# ------------------------------------------------------------------ one atlas for all who have nothing of their own
def test_visitors_share_the_atlas_until_something_is_theirs(desk: AppSession) -> None:
    a, b = desk.at(visitor("a")), desk.at(visitor("b"))
    assert atlas_of(a) is atlas_of(b) is atlas_of(desk)
    one = desk.engine.bank.infos()[0].id
    Endpoints(a).quarantine(one, "not for me")
    assert atlas_of(a) is not atlas_of(desk) is atlas_of(b) and atlas_of(a) is atlas_of(a)
    assert (
        atlas_of(a).rows().by_id[one].quarantined and not atlas_of(b).rows().by_id[one].quarantined
    )
    distilled(b, ANN, visitor("b")), Distil(b).keep(visitor("b"))
    assert len(atlas_of(b).rows().infos) == 3 and len(atlas_of(desk).rows().infos) == 2
    mine = next(i.id for i in b.engine.bank.infos() if b.engine.bank.owns(i.id))
    Endpoints(b).delete(mine)
    assert mine not in atlas_of(b).rows().by_id


def test_an_answer_and_a_verdict_are_seen_by_whoever_asked_alone(desk: AppSession) -> None:
    a, b = desk.at(visitor("a")), desk.at(visitor("b"))
    first = app.show_map(a, "", visitor("a"))
    asked(a, ANN, who=visitor("a"))
    Solve(a).said_right(visitor("a"))
    assert sum(i.counters.used for i in atlas_of(a).rows().infos) == 1
    assert (
        sum(i.counters.used for i in atlas_of(b).rows().infos)
        == 0
        == sum(i.counters.used for i in atlas_of(desk).rows().infos)
    )
    again = app.show_map(a, first.points["stamp"] if "points" in sent(first) else "", visitor("a"))
    assert again.seen != first.seen


def test_no_picture_is_computed_twice_for_the_same_memories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTMEM_CACHE", str(tmp_path))
    computed: list[str] = []

    def counting(keys: np.ndarray, method: str) -> Any:
        computed.append(method)
        yield Status("Computing")
        return np.asarray(keys[:, :2], np.float32)

    monkeypatch.setattr(projection, "_computed", counting)
    monkeypatch.setattr(
        projection, "kept", lambda file, n: None
    )  # not from the disk, where it is found again, too
    engine = FakeEngine(Settings(hosted=True))
    fill_bank(engine, [Problem(t, source="shops") for t in SHOPS])
    desk = AppSession(engine)  # type: ignore[arg-type]
    look = ("", "source", "input", "tsne")
    for name in ("a", "b"):
        drawn(desk.at(visitor(name)), look)
    assert computed == ["tsne"]
    a = desk.at(visitor("a"))
    Endpoints(a).quarantine(engine.bank.infos()[0].id)
    stamp = atlas_of(desk).ready("input", "tsne").stamp
    assert atlas_of(a) is not atlas_of(desk) and atlas_of(a).ready("input", "tsne").stamp == stamp
    drawn(a, look)
    assert computed == ["tsne"], "the visitor's own atlas began with the shared one's pictures"


# ------------------------------------------------------------------ receipts
def test_a_visitor_forgets_their_own_receipts_and_nobody_elses(desk: AppSession) -> None:
    keepers = list(desk.engine.answer(Problem("How many cats has Cy?")))[-1].id
    mine = Endpoints(desk.at(visitor("a"))).solve(ANN, request=visitor("a"))["id"]
    for who, name in (("b", mine), ("b", keepers), ("a", keepers)):
        with pytest.raises(gr.Error, match="There is no receipt"):
            Endpoints(desk.at(visitor(who))).forget(name)
        pressed = gr.EventData(None, {"do": "really-forget", "value": name})
        assert "There is no receipt" in text_of(
            actions.act(desk.at(visitor(who)), *LOOK, "", pressed, visitor(who)).notice
        )
    assert Endpoints(desk.at(visitor("a"))).receipt(mine) and desk.engine.bank.receipt(keepers)
    assert Endpoints(desk.at(visitor("a"))).forget(mine) == mine
    with pytest.raises(gr.Error, match="There is no receipt"):
        Endpoints(desk.at(visitor("a"))).receipt(mine)
    assert desk.engine.bank.receipt(keepers)
