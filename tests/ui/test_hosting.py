"""A shared app: nobody sees another's memories, the shared bank is only read, limits hold on the
server, and what visitors share."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest

from latentmem.bank import Bank, Overlay
from latentmem.engine import Engine
from latentmem.records import LatentmemError, Problem, Status
from latentmem.settings import Settings
from latentmem.ui import build, hosting, launch_options, prepare, server
from latentmem.ui import session as visits
from latentmem.ui.api import Endpoints
from latentmem.ui.app import Page
from latentmem.ui.map import actions, projection
from latentmem.ui.map.panel_state import atlas_of
from latentmem.ui.panels import memories
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession
from tests.bank_samples import make_memory
from tests.fake_engine import FakeEngine, fill_bank
from tests.memory_samples import SHOPS, asks, drawn
from tests.ui_samples import ANN, BO, asked, distilled, settle, text_of, visitor

TOKEN = "0123456789abcdef0123"
LIMITS = {
    "hosted": True,
    "hosted_chars": 200,
    "hosted_rollouts": 8,
    "hosted_steps": 4,
    "hosted_new_tokens": 320,
    "hosted_memories": 2,
}


def shared_engine(**changes: Any) -> FakeEngine:
    engine = FakeEngine(Settings(**{**LIMITS, **changes}))
    fill_bank(
        engine,
        [Problem(BO, source="pets"), Problem("A train goes 40 km in an hour.", source="trains")],
    )
    return engine


@pytest.fixture
def session() -> AppSession:
    return AppSession(shared_engine())


def request(name: str) -> gr.Request:
    return gr.Request(session_hash=name)


def kept(session: AppSession, name: str, text: str = ANN) -> str:
    """A visitor distils and keeps; the new memory's id."""
    mine = session.at(visitor(name))
    distilled(mine, text, visitor(name))
    picture = Distil(mine).keep(visitor(name))
    assert "Kept" in text_of(picture.status), text_of(picture.status)
    return next(i.id for i in mine.engine.bank.infos() if mine.engine.bank.owns(i.id))


# ---------- one's own memories
def test_two_visitors_never_see_each_others_memories(session: AppSession) -> None:
    name = kept(session, "a")
    a, b = session.at(visitor("a")), session.at(visitor("b"))
    assert name in a.engine.bank and name not in b.engine.bank and name not in session.engine.bank
    assert len(a.engine.bank) == 3 and len(b.engine.bank) == 2 == len(session.engine.bank)
    assert name in text_of(asked(a, ANN, who=visitor("a"))[-1].receipt)
    seen = text_of(asked(b, ANN, who=visitor("b"))[-1].receipt)
    assert name not in seen and "Bo has 5 cats" in seen
    assert name not in [row["id"] for row in Endpoints(b).memories()]
    assert name not in [h["memory_id"] for h in Endpoints(b).search(ANN, 50)["hits"]]
    for name_ in ("memory", "delete", "export_peft", "neighbours", "quarantine"):
        with pytest.raises(gr.Error, match="no memory"):
            getattr(Endpoints(b), name_)(name)
    with pytest.raises(gr.Error, match="no memory"):
        Endpoints(b).think(ANN, name)
    assert "<b>1</b> of them yours" in text_of(Page(session).head(visitor("a"))[0])


def test_a_request_decides_which_bank_an_endpoint_and_a_panel_work_on(session: AppSession) -> None:
    kept(session, "a")
    shared = Endpoints(session)
    assert shared.memories("Ann", 5, request("b")) == []
    assert len(shared.memories("Ann", 5, request("a"))) == 1
    assert len(Solve(session).of(request("a"))[0].engine.bank) == 3
    assert len(Solve(session).of(request("b"))[0].engine.bank) == 2 == len(session.engine.bank)


def test_what_is_asked_leaves_nothing_with_the_shared_bank(session: AppSession) -> None:
    bo = next(i.id for i in session.engine.bank.infos() if i.problem.source == "pets")
    a = session.at(visitor("a"))
    asked(a, ANN, who=visitor("a"))
    Solve(a).said_wrong(visitor("a"))
    Endpoints(a).quarantine(bo, "not for me")
    assert a.engine.bank.info(bo).counters.used == 1 and a.engine.bank.info(bo).quarantined
    assert session.engine.bank.events() == []
    assert not session.at(visitor("b")).engine.bank.info(bo).quarantined
    with pytest.raises(gr.Error, match="only its keeper"):
        Endpoints(a).delete(bo)


def test_a_receipt_is_shown_to_whoever_asked_and_to_nobody_else(session: AppSession) -> None:
    # before the app was shared
    keepers = list(session.engine.answer(Problem(BO.replace("Bo", "Cy"))))[-1]
    assert session.engine.bank.receipt(keepers.id).used is not None
    mine = Endpoints(session.at(visitor("a"))).solve(ANN, request=visitor("a"))["id"]
    assert Endpoints(session.at(visitor("a"))).receipt(mine)["answer"]
    for who, name in (("b", mine), ("b", keepers.id), ("a", keepers.id)):
        with pytest.raises(gr.Error, match="no receipt"):
            Endpoints(session.at(visitor(who))).receipt(name)
        page = memories.show_map(asks(session.at(visitor(who)), who=visitor(who, receipt=name)))
        assert "There is no receipt" in text_of(page.notice) and not page.body
        tried = keepers.used.memory_id
        assert Endpoints(session.at(visitor(who))).memory(tried)["receipts"] == (
            [mine] if who == "a" else []
        )
    with pytest.raises(LatentmemError):
        session.engine.bank.receipt(mine)


def test_an_own_bank_is_freed_with_its_visitor(session: AppSession) -> None:
    kept(session, "a")
    own = session.at(visitor("a")).engine.bank.own
    folder = Path(session.at(visitor("a")).folder())
    settle(session, visitor("a"))
    Page(session).leave(visitor("a"))
    with pytest.raises(LatentmemError, match="is closed"):
        len(own)
    assert not folder.exists() and len(session.visits) == 0
    assert len(session.at(visitor("a")).engine.bank) == 2


def test_an_own_bank_outlives_a_reload_and_no_more(
    session: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.visits.patience = 60
    Page(session).arrived(TOKEN, visitor("a"))
    name = kept(session, "a")
    Page(session).leave(visitor("a"))
    Page(session).arrived(TOKEN, visitor("b"))
    assert name in session.at(visitor("b")).engine.bank
    own = session.at(visitor("b")).engine.bank.own
    session.visits.patience = 0.01
    Page(session).leave(visitor("b"))
    deadline = time.monotonic() + 10
    while len(session.visits) and time.monotonic() < deadline:  # nobody calls: a timer frees it
        time.sleep(0.05)
    with pytest.raises(LatentmemError, match="is closed"):
        len(own)


def test_a_page_that_only_lost_its_connection_is_known_again(session: AppSession) -> None:
    """A phone that slept: gradio says that the page is gone, and its next press comes under the
    same name."""
    session.visits.patience = 60
    Page(session).arrived(TOKEN, visitor("a"))
    name = kept(session, "a")
    Page(session).leave(visitor("a"))
    assert name in session.at(visitor("a")).engine.bank and len(session.visits) == 1
    Page(session).leave(visitor("a"))
    Page(session).arrived(TOKEN, visitor("b"))  # and a reload of it still finds everything
    assert name in session.at(visitor("b")).engine.bank
    assert name not in session.at(visitor("a")).engine.bank


def test_a_program_without_a_session_is_not_remembered(session: AppSession) -> None:
    for nobody in (None, SimpleNamespace(session_hash=None)):
        at = session.at(nobody)
        Endpoints(at).distil(ANN, request=nobody)
        assert len(session.at(nobody).engine.bank) == 2 and len(session.visits) == 0


def test_an_idle_program_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "IDLE", 0.02)
    known = visits.Visits()
    known.of("program"), known.claim("page", TOKEN)
    time.sleep(0.03)
    known.sweep()
    assert "program" not in known and "page" in known


# ---------- limits
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollouts": 9}, "9 attempts are more than the 8"),
        ({"max_new_tokens": 336}, "336 tokens in an attempt"),
        ({"rollouts": float("inf")}, "rollouts"),
    ],
)
def test_the_panel_refuses_what_is_beyond_the_limits(
    session: AppSession, changes: dict[str, Any], words: str
) -> None:
    last = asked(session.at(visitor()), **changes)[-1]
    assert words in text_of(last.status)
    assert not last.receipt
    assert session.engine.shared["closed"] == 0


def test_the_endpoints_refuse_it_too(session: AppSession) -> None:
    a = session.at(visitor("a"))
    for call, words in (
        (lambda: Endpoints(a).solve(ANN, rollouts=9), "9 attempts are more than the 8"),
        (
            lambda: Endpoints(a).solve(ANN, max_new_tokens=5000),
            "5000 tokens in an attempt are more than the 320",
        ),
        (lambda: Endpoints(a).solve(ANN, rollouts="256"), "256 attempts are more than the 8"),
        (
            lambda: Endpoints(a).distil(ANN, virtual_tokens="512"),
            "512 virtual tokens are more than the 32",
        ),
        (lambda: Endpoints(a).distil(ANN, steps=5), "5 gradient steps are more than the 4"),
        (
            lambda: Endpoints(a).distil(ANN, virtual_tokens=33),
            "33 virtual tokens are more than the 32",
        ),
        (lambda: Endpoints(a).think(ANN, "m0", rollouts=9), "9 attempts"),
        (lambda: Endpoints(a).solve("x" * 201), "201 characters and the limit is 200"),
        (lambda: Endpoints(a).search("x" * 201), "201 characters"),
        (lambda: Endpoints(a).distil("x" * 201), "201 characters"),
    ):
        with pytest.raises(gr.Error, match=words):
            call()
    assert Endpoints(a).solve(ANN, rollouts=8)["answer"]


def test_there_is_room_for_so_many_memories(session: AppSession) -> None:
    a = session.at(visitor("a"))
    for i in range(2):
        assert Endpoints(a).distil(f"{ANN} ({i})")["kept"]
    began = session.engine.shared["open"]
    with pytest.raises(gr.Error, match="3 memories are more than the 2"):
        Endpoints(a).distil(ANN)  # refused before ten minutes of work, not after
    assert "more than the 2" in text_of(distilled(a, ANN, visitor("a"))[-1].status)
    assert session.engine.shared["open"] == began
    assert Endpoints(session.at(visitor("b"))).distil(ANN)["kept"]


def test_the_apps_own_settings_respect_the_limits() -> None:
    session = AppSession(shared_engine(rollouts=64, steps=100, max_new_tokens=8000))
    s = session.engine.settings
    assert (s.rollouts, s.steps, s.max_new_tokens, s.max_problem_chars) == (8, 4, 320, 200)
    assert AppSession(FakeEngine(Settings(rollouts=64))).engine.settings.rollouts == 64
    hosting.check(Settings(hosted=False), {"rollouts": 10_000})


def test_the_page_offers_no_more_than_the_limits() -> None:
    app = build(shared_engine())
    sliders = {b.label: b.maximum for b in app.blocks.values() if isinstance(b, gr.Slider)}
    assert sliders["Attempts"] == 8
    assert sliders["Longest attempt, in tokens"] == 320
    assert sliders["Gradient steps"] == 4
    assert launch_options(shared_engine())["max_file_size"] == "32mb"


# ---------- where it is switched on, and the bank it starts with
def test_it_is_switched_on_by_the_platform_or_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Settings().hosted
    monkeypatch.setenv("SPACE_ID", "someone/latentmem")
    assert Settings().hosted
    monkeypatch.setenv("LATENTMEM_HOSTED", "0")
    assert not Settings().hosted
    monkeypatch.delenv("SPACE_ID")
    monkeypatch.setenv("LATENTMEM_HOSTED", "1")
    assert Settings().hosted


def test_whether_the_disk_lasts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert hosting.lasting(tmp_path / "bank.sqlite") is None
    monkeypatch.setenv("SPACE_ID", "someone/latentmem")
    monkeypatch.setattr("os.path.ismount", lambda path: str(path) == "/data")
    assert hosting.lasting(Path("/data/memories/bank.sqlite")) is True
    assert hosting.lasting(Path("/home/user/bank.sqlite")) is False


@pytest.fixture
def starter(tmp_path: Path) -> Path:
    with Bank(":memory:") as bank:
        for seed in range(3):
            bank.put(make_memory(seed))
        bank.export_zip(tmp_path / "starter.zip")
    return tmp_path / "starter.zip"


def test_a_new_bank_begins_with_the_shipped_memories(starter: Path) -> None:
    engine = hosting.prepare(Engine(Settings()), starter)
    assert len(engine.bank) == 3 and not engine.bank.read_only
    for info in engine.bank.infos():
        engine.bank.delete(info.id)
    assert len(hosting.prepare(Engine(Settings()), starter).bank) == 0, (
        "what was deleted stays deleted"
    )


def test_nothing_is_added_where_it_is_switched_off_or_something_is_there(starter: Path) -> None:
    assert len(hosting.prepare(Engine(Settings(starter=False)), starter).bank) == 0
    with Bank(Settings().bank) as bank:
        bank.put(make_memory(9))
    assert len(hosting.prepare(Engine(Settings()), starter).bank) == 1


@pytest.mark.parametrize("hosted", [False, True])
def test_a_bank_in_memory_begins_with_them_too(starter: Path, hosted: bool) -> None:
    assert len(hosting.prepare(Engine(Settings(bank=":memory:", hosted=hosted)), starter).bank) == 3


def test_a_missing_or_damaged_starter_is_no_obstacle(tmp_path: Path, starter: Path) -> None:
    assert (
        len(
            hosting.prepare(
                Engine(Settings(bank=tmp_path / "1.sqlite")), tmp_path / "none.zip"
            ).bank
        )
        == 0
    )
    (tmp_path / "bad.zip").write_bytes(starter.read_bytes()[:-200])
    assert (
        len(
            hosting.prepare(Engine(Settings(bank=tmp_path / "2.sqlite")), tmp_path / "bad.zip").bank
        )
        == 0
    )


def test_the_shared_bank_is_opened_for_reading_only(starter: Path) -> None:
    engine = hosting.prepare(Engine(Settings(hosted=True)), starter)
    assert engine.bank.read_only and len(engine.bank) == 3
    with pytest.raises(LatentmemError):
        engine.bank.put(make_memory(7))
    session = AppSession(engine)
    bank = session.at(visitor()).engine.bank
    assert isinstance(bank, Overlay) and bank.put(make_memory(7)) in bank and len(engine.bank) == 3
    assert prepare(Engine(Settings(hosted=True))).bank.read_only


def test_nobody_passes_by_the_queue_of_a_shared_app(session: AppSession) -> None:
    from latentmem.ui import build

    assert build(session.engine).api_open is False  # type: ignore[arg-type]


# ---------- what visitors share, and what they must not
def test_tools_and_a_shared_app_do_not_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    # whether or not the extra is installed
    monkeypatch.setattr(server, "find_spec", lambda name: object())
    with pytest.raises(LatentmemError, match="LATENTMEM_MCP=0") as caught:
        launch_options(FakeEngine(Settings(mcp=True, hosted=True)))  # type: ignore[arg-type]
    assert str(caught.value).count(". ") == 0 and "one visitor" in str(caught.value)
    monkeypatch.undo()
    assert launch_options(shared_engine())["mcp_server"] is False  # type: ignore[arg-type]


# ---------- one atlas for all who have nothing of their own
def test_visitors_share_the_atlas_until_something_is_theirs(session: AppSession) -> None:
    a, b = session.at(visitor("a")), session.at(visitor("b"))
    assert atlas_of(a) is atlas_of(b) is atlas_of(session)
    one = session.engine.bank.infos()[0].id
    Endpoints(a).quarantine(one, "not for me")
    assert atlas_of(a) is not atlas_of(session) is atlas_of(b) and atlas_of(a) is atlas_of(a)
    assert atlas_of(a).rows().by_id[one].quarantined
    assert not atlas_of(b).rows().by_id[one].quarantined
    distilled(b, ANN, visitor("b")), Distil(b).keep(visitor("b"))
    assert len(atlas_of(b).rows().infos) == 3 and len(atlas_of(session).rows().infos) == 2
    mine = next(i.id for i in b.engine.bank.infos() if b.engine.bank.owns(i.id))
    Endpoints(b).delete(mine)
    assert mine not in atlas_of(b).rows().by_id


def test_an_answer_and_a_verdict_are_seen_by_whoever_asked_alone(session: AppSession) -> None:
    a, b = session.at(visitor("a")), session.at(visitor("b"))
    first = memories.show_map(asks(a, who=visitor("a")))
    asked(a, ANN, who=visitor("a"))
    Solve(a).said_right(visitor("a"))
    assert sum(i.counters.used for i in atlas_of(a).rows().infos) == 1
    assert (
        sum(i.counters.used for i in atlas_of(b).rows().infos)
        == 0
        == sum(i.counters.used for i in atlas_of(session).rows().infos)
    )
    again = memories.show_map(asks(a, who=visitor("a")))
    assert again.seen != first.seen


def test_no_picture_is_computed_twice_for_the_same_memories(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[str] = []

    def counting(keys: np.ndarray, method: str) -> Any:
        computed.append(method)
        yield Status("Computing")
        return np.asarray(keys[:, :2], np.float32)

    monkeypatch.setattr(projection, "_computed", counting)
    engine = FakeEngine(Settings(hosted=True))
    fill_bank(engine, [Problem(t, source="shops") for t in SHOPS])
    session = AppSession(engine)  # type: ignore[arg-type]
    look = ("", "source", "input", "tsne")
    for name in ("a", "b"):
        drawn(session.at(visitor(name)), look)
    assert computed == ["tsne"]
    a = session.at(visitor("a"))
    Endpoints(a).quarantine(engine.bank.infos()[0].id)
    stamp = atlas_of(session).ready("input", "tsne").stamp
    assert atlas_of(a) is not atlas_of(session)
    assert atlas_of(a).ready("input", "tsne").stamp == stamp
    drawn(a, look)
    assert computed == ["tsne"], "the visitor's own atlas began with the shared one's pictures"


# ---------- receipts
def test_a_visitor_forgets_their_own_receipts_and_nobody_elses(session: AppSession) -> None:
    keepers = list(session.engine.answer(Problem("How many cats has Cy?")))[-1].id
    mine = Endpoints(session.at(visitor("a"))).solve(ANN, request=visitor("a"))["id"]
    for who, name in (("b", mine), ("b", keepers), ("a", keepers)):
        with pytest.raises(gr.Error, match="There is no receipt"):
            Endpoints(session.at(visitor(who))).forget(name)
        pressed = {"do": "forget", "value": name}
        assert "There is no receipt" in text_of(
            actions.act(asks(session.at(visitor(who)), data=pressed, who=visitor(who))).notice
        )
    assert Endpoints(session.at(visitor("a"))).receipt(mine) and session.engine.bank.receipt(
        keepers
    )
    assert Endpoints(session.at(visitor("a"))).forget(mine) == mine
    with pytest.raises(gr.Error, match="There is no receipt"):
        Endpoints(session.at(visitor("a"))).receipt(mine)
    assert session.engine.bank.receipt(keepers)
