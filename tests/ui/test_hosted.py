"""A shared app: nobody sees another's memories, the shared bank is only read, and limits hold on
the server."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from latentmem.bank import Bank, Overlay
from latentmem.engine import Engine
from latentmem.records import LatentmemError, Problem
from latentmem.settings import Settings
from latentmem.ui import app as arrival
from latentmem.ui import build, hosting, launch_options, prepare
from latentmem.ui import session as visits
from latentmem.ui.api import Endpoints
from latentmem.ui.app import Page
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession
from tests.bank_samples import make_memory
from tests.fake_engine import FakeEngine, fill_bank
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
def desk() -> AppSession:
    return AppSession(shared_engine())


def request(name: str) -> gr.Request:
    return gr.Request(session_hash=name)


def kept(desk: AppSession, name: str, text: str = ANN) -> str:
    """A visitor distils and keeps; the new memory's id."""
    mine = desk.at(visitor(name))
    distilled(mine, text, visitor(name))
    picture = Distil(mine).keep(visitor(name))
    assert "Kept" in text_of(picture.status), text_of(picture.status)
    return next(i.id for i in mine.engine.bank.infos() if mine.engine.bank.owns(i.id))


# ------------------------------------------------------------------ one's own memories
def test_two_visitors_never_see_each_others_memories(desk: AppSession) -> None:
    name = kept(desk, "a")
    a, b = desk.at(visitor("a")), desk.at(visitor("b"))
    assert name in a.engine.bank and name not in b.engine.bank and name not in desk.engine.bank
    assert len(a.engine.bank) == 3 and len(b.engine.bank) == 2 == len(desk.engine.bank)
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
    assert "<b>1</b> of them yours" in text_of(Page(desk).head(visitor("a"))[0])


def test_a_request_decides_which_bank_an_endpoint_and_a_panel_work_on(desk: AppSession) -> None:
    kept(desk, "a")
    shared = Endpoints(desk)
    assert shared.memories("Ann", 5, request("b")) == []
    assert len(shared.memories("Ann", 5, request("a"))) == 1
    assert len(Solve(desk).of(request("a"))[0].engine.bank) == 3
    assert len(Solve(desk).of(request("b"))[0].engine.bank) == 2 == len(desk.engine.bank)


def test_what_is_asked_leaves_nothing_with_the_shared_bank(desk: AppSession) -> None:
    bo = next(i.id for i in desk.engine.bank.infos() if i.problem.source == "pets")
    a = desk.at(visitor("a"))
    asked(a, ANN, who=visitor("a"))
    Solve(a).said_wrong(visitor("a"))
    Endpoints(a).quarantine(bo, "not for me")
    assert a.engine.bank.info(bo).counters.used == 1 and a.engine.bank.info(bo).quarantined
    assert (
        desk.engine.bank.events() == []
        and not desk.at(visitor("b")).engine.bank.info(bo).quarantined
    )
    with pytest.raises(gr.Error, match="only its keeper"):
        Endpoints(a).delete(bo)


def test_a_receipt_is_shown_to_whoever_asked_and_to_nobody_else(desk: AppSession) -> None:
    keepers = list(desk.engine.answer(Problem(BO.replace("Bo", "Cy"))))[
        -1
    ]  # before the app was shared
    assert desk.engine.bank.receipt(keepers.id).used is not None
    mine = Endpoints(desk.at(visitor("a"))).solve(ANN, request=visitor("a"))["id"]
    assert Endpoints(desk.at(visitor("a"))).receipt(mine)["answer"]
    for who, name in (("b", mine), ("b", keepers.id), ("a", keepers.id)):
        with pytest.raises(gr.Error, match="no receipt"):
            Endpoints(desk.at(visitor(who))).receipt(name)
        page = arrival.show_map(desk.at(visitor(who)), "", visitor(who, receipt=name))
        assert "There is no receipt" in text_of(page.notice) and not page.body
        tried = keepers.used.memory_id
        assert Endpoints(desk.at(visitor(who))).memory(tried)["receipts"] == (
            [mine] if who == "a" else []
        )
    with pytest.raises(LatentmemError):
        desk.engine.bank.receipt(mine)


def test_an_own_bank_is_freed_with_its_visitor(desk: AppSession) -> None:
    kept(desk, "a")
    own = desk.at(visitor("a")).engine.bank.own
    folder = Path(desk.at(visitor("a")).folder())
    settle(desk, visitor("a"))
    Page(desk).leave(visitor("a"))
    with pytest.raises(LatentmemError, match="is closed"):
        len(own)
    assert not folder.exists() and len(desk.visits) == 0
    assert len(desk.at(visitor("a")).engine.bank) == 2


def test_an_own_bank_outlives_a_reload_and_no_more(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.visits.patience = 60
    Page(desk).arrived(TOKEN, visitor("a"))
    name = kept(desk, "a")
    Page(desk).leave(visitor("a"))
    Page(desk).arrived(TOKEN, visitor("b"))
    assert name in desk.at(visitor("b")).engine.bank
    own = desk.at(visitor("b")).engine.bank.own
    desk.visits.patience = 0.01
    Page(desk).leave(visitor("b"))
    deadline = time.monotonic() + 10
    while len(desk.visits) and time.monotonic() < deadline:  # nobody calls: a timer frees it
        time.sleep(0.05)
    with pytest.raises(LatentmemError, match="is closed"):
        len(own)


def test_a_page_that_only_lost_its_connection_is_known_again(desk: AppSession) -> None:
    """A phone that slept: gradio says that the page is gone, and its next press comes under the
    same name."""
    desk.visits.patience = 60
    Page(desk).arrived(TOKEN, visitor("a"))
    name = kept(desk, "a")
    Page(desk).leave(visitor("a"))
    assert name in desk.at(visitor("a")).engine.bank and len(desk.visits) == 1
    Page(desk).leave(visitor("a"))
    Page(desk).arrived(TOKEN, visitor("b"))  # and a reload of it still finds everything
    assert (
        name in desk.at(visitor("b")).engine.bank and name not in desk.at(visitor("a")).engine.bank
    )


def test_a_program_without_a_session_is_not_remembered(desk: AppSession) -> None:
    for nobody in (None, SimpleNamespace(session_hash=None)):
        at = desk.at(nobody)
        Endpoints(at).distil(ANN, request=nobody)
        assert len(desk.at(nobody).engine.bank) == 2 and len(desk.visits) == 0


def test_an_idle_program_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "IDLE", 0.02)
    known = visits.Visits()
    known.of("program"), known.claim("page", TOKEN)
    time.sleep(0.03)
    known.sweep()
    assert "program" not in known and "page" in known


# ------------------------------------------------------------------ limits
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollouts": 9}, "9 attempts are more than the 8"),
        ({"max_new_tokens": 336}, "336 tokens in an attempt"),
        ({"rollouts": float("inf")}, "rollouts"),
    ],
)
def test_the_panel_refuses_what_is_beyond_the_limits(
    desk: AppSession, changes: dict[str, Any], words: str
) -> None:
    last = asked(desk.at(visitor()), **changes)[-1]
    assert words in text_of(last.status) and not last.receipt and desk.engine.shared["closed"] == 0


def test_the_endpoints_refuse_it_too(desk: AppSession) -> None:
    a = desk.at(visitor("a"))
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


def test_there_is_room_for_so_many_memories(desk: AppSession) -> None:
    a = desk.at(visitor("a"))
    for i in range(2):
        assert Endpoints(a).distil(f"{ANN} ({i})")["kept"]
    began = desk.engine.shared["open"]
    with pytest.raises(gr.Error, match="3 memories are more than the 2"):
        Endpoints(a).distil(ANN)  # refused before ten minutes of work, not after
    assert "more than the 2" in text_of(distilled(a, ANN, visitor("a"))[-1].status)
    assert (
        desk.engine.shared["open"] == began and Endpoints(desk.at(visitor("b"))).distil(ANN)["kept"]
    )


def test_the_apps_own_settings_respect_the_limits() -> None:
    desk = AppSession(shared_engine(rollouts=64, steps=100, max_new_tokens=8000))
    s = desk.engine.settings
    assert (s.rollouts, s.steps, s.max_new_tokens, s.max_problem_chars) == (8, 4, 320, 200)
    assert AppSession(FakeEngine(Settings(rollouts=64))).engine.settings.rollouts == 64
    hosting.check(Settings(hosted=False), {"rollouts": 10_000})


def test_the_page_offers_no_more_than_the_limits_and_a_bounded_queue() -> None:
    app = build(shared_engine(hosted_queue=3))
    sliders = {b.label: b.maximum for b in app.blocks.values() if isinstance(b, gr.Slider)}
    assert (
        sliders["Attempts"] == 8
        and sliders["Longest attempt, in tokens"] == 320
        and sliders["Gradient steps"] == 4
    )
    assert app.max_size == 3 if hasattr(app, "max_size") else app._queue.max_size == 3
    assert launch_options(shared_engine())["max_file_size"] == "32mb"


# ------------------------------------------------------------------ where it is switched on, and the bank it starts with
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
    desk = AppSession(engine)
    bank = desk.at(visitor()).engine.bank
    assert isinstance(bank, Overlay) and bank.put(make_memory(7)) in bank and len(engine.bank) == 3
    assert prepare(Engine(Settings(hosted=True))).bank.read_only


def test_nobody_passes_by_the_queue_of_a_shared_app(desk: AppSession) -> None:
    from latentmem.ui import build

    assert build(desk.engine).api_open is False  # type: ignore[arg-type]
