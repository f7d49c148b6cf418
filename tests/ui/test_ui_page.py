"""The Memories panel, the page as a whole and the endpoints, without a browser, against an engine
without a model."""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from latentmem.records import Receipt
from latentmem.settings import Settings
from latentmem.ui import api, build, components, launch_options, server, session
from latentmem.ui import app as arrival
from latentmem.ui import session as visits
from latentmem.ui.app import Page
from latentmem.ui.panels import distil, memories
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import AppSession, last_receipt
from tests.fake_engine import FakeEngine
from tests.ui_samples import (
    ANN,
    BO,
    LOOK,
    SETTINGS,
    asked,
    distilled,
    new_desk,
    pressed,
    text_of,
    visitor,
)

TOKEN = "0123456789abcdef0123"


@pytest.fixture
def desk() -> AppSession:
    return new_desk()


# ------------------------------------------------------------------ the page as a whole
def arrived(desk: AppSession, who: Any, token: str = "") -> dict[str, Any]:
    """What the two steps of a page load show, by name; nothing (`gr.skip()`) for the others."""

    def plain(name: str) -> str:
        panel, _, own = name.rpartition(".")
        return own if panel in ("", "solve") or own in components.TRAINING else f"{panel}_{own}"

    shown = {plain(name): value for name, value in Page(desk).arrived(token, who).items()}
    shown |= {f"map_{k}": v for k, v in arrival.show_map(desk, "", who)._asdict().items()}
    return defaultdict(gr.skip, shown)


def skipped(value: Any) -> bool:
    return value == gr.skip()


def test_the_address_opens_a_memory_and_fills_the_box(desk: AppSession) -> None:
    name = desk.engine.bank.infos()[1].id
    page = arrived(desk, visitor(memory=name, problem="${1+1}"))
    assert page["problem"] == "${1+1}" and page["map_chosen"] == name
    assert "<b>2</b> memories" in text_of(page["facts"]) and skipped(page["status"])
    page = arrived(desk, visitor("b", memory="m000nothere"))
    assert "alert" in text_of(page["map_notice"]) and page["map_chosen"] == ""
    assert not skipped(arrived(desk, visitor("c", panel="nonsense"))["facts"])


def test_a_reload_brings_the_work_back(desk: AppSession) -> None:
    first, again = visitor("first"), visitor("again")
    arrived(desk, first, TOKEN)
    asked(desk, who=first, seed=7), distilled(desk, BO, who=first)
    Solve(desk).compare.press(
        next(i.id for i in desk.engine.bank.infos() if i.problem.source == "trains"), first
    )
    columns = list(Solve(desk).compare.begin(first))[-1]
    Distil(desk).compare.press(distil.SAME, first)
    trial = list(Distil(desk).compare.begin(first))[-1]
    Page(desk).leave(first)
    page = arrived(desk, again, TOKEN)
    assert page["columns"] == columns and "Side by side" in text_of(columns)
    assert (page["steps"], page["learning_rate"], page["virtual_tokens"]) == (4, 1e-3, 20)
    assert (
        page["problem"] == ANN
        and page["seed"] == 7
        and "Receipt" in text_of(page["receipt"])
        and page["cards"]
    )
    assert page["distil_problem"] == BO and page["distil_choice"]["visible"]
    assert page["distil_columns"] == [part for part in trial if part[0] == "row-0"] != [], (
        "before and after the memory, too"
    )
    assert desk.visit(again).star is not None
    assert Distil(desk).keep(again).after["visible"], "the memory that waited can still be kept"
    page = arrived(desk, visitor("stranger"), TOKEN[::-1])
    assert skipped(page["problem"]) and skipped(page["receipt"])
    page = arrived(desk, visitor("linked", problem="Another?"), TOKEN)
    assert page["problem"] == "Another?" and skipped(page["receipt"])


def test_a_run_goes_on_while_its_page_is_reloaded(desk: AppSession) -> None:
    desk.engine.pace = 0.01
    first, again = visitor("first"), visitor("again")
    arrived(desk, first, TOKEN)
    stream = pressed(Solve, desk, first, ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    stream.close()
    Page(desk).leave(first)
    page = arrived(desk, again, TOKEN)
    assert page["stop_button"]["interactive"] and not page["receipt"]
    shown = list(Solve(desk).resume(again))
    assert "Receipt" in text_of(shown[-1].receipt) and desk.visit(again).star is not None
    (late,) = Solve(desk).resume(again)
    assert "Receipt" in text_of(late.receipt) and late.press_button["interactive"], (
        "it ended while the page was loading"
    )
    assert all(map(skipped, next(iter(Distil(desk).resume(again)))))


def test_a_run_that_nobody_comes_back_to_is_stopped(
    desk: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "ORPHAN", 0.05)
    desk.engine.pace = 0.02
    arrived(desk, visitor(), TOKEN)
    stream = pressed(Solve, desk, visitor(), ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    run = desk.visit(visitor()).runs["solve"]
    Page(desk).leave(visitor())
    run.thread.join(20)
    assert run.done and run.scene.receipt is None and desk.engine.shared["open"] == 0
    del stream


def test_a_new_run_waits_for_one_that_is_ending(desk: AppSession) -> None:
    desk.model_work.acquire()
    stream = pressed(Solve, desk, visitor(), ANN, "auto", None, *SETTINGS)
    next(stream)
    assert "Waiting for another run" in text_of(next(stream).status)
    desk.model_work.release()
    assert "Receipt" in text_of(list(stream)[-1].receipt) and not desk.model_work.locked()


def test_bound_handlers_still_ask_for_the_request(desk: AppSession) -> None:
    from gradio.helpers import special_args

    handler = session.bind(memories.clicked, desk)
    values, _, event, _ = special_args(
        handler, list(LOOK), request="the request", event_data=gr.EventData(None, {})
    )  # type: ignore[arg-type]
    assert (
        values[:4] == list(LOOK)
        and isinstance(values[4], gr.EventData)
        and values[5] == "the request"
        and event == 4
    )


def test_visits_are_bounded_and_the_oldest_is_stopped(desk: AppSession) -> None:
    run = desk.visit(visitor("first")).start("solve")
    for i in range(visits.MOST_VISITS):
        desk.visit(visitor(f"v{i}"))
    assert run.stop.is_set() and len(desk.visits) == visits.MOST_VISITS


def test_a_flood_of_callers_throws_no_page_out() -> None:
    kept = visits.Visits(most=4)
    work, idle = kept.claim("work", TOKEN), kept.claim("idle", TOKEN[::-1])
    work.start("solve").asked = "a press that waits"
    kept.claim("went", "went" + TOKEN), kept.leave("went")
    for i in range(9):
        assert kept.of(f"caller{i}") is kept._live[f"caller{i}"], (
            "the one who calls is never the one who goes"
        )
    assert (
        len(kept) == 4 and {"work", "idle", "caller8"} <= set(kept._live) and len(kept._parked) == 1
    )
    kept.claim("a", "a" + TOKEN), kept.claim("b", "b" + TOKEN)
    assert set(kept._live) == {"work", "idle", "a", "b"} and not kept._parked
    kept.claim("c", "c" + TOKEN)
    assert set(kept._live) == {"work", "a", "b", "c"} and not work.runs["solve"].stop.is_set(), (
        "who works goes last"
    )
    assert idle is not kept.of("idle")


def test_a_tab_that_went_away_is_remembered_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = [1000.0]
    monkeypatch.setattr(visits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    kept = visits.Visits(patience=5)
    visit = kept.claim("a", TOKEN)
    kept.leave("a")
    assert kept.claim("b", TOKEN) is visit and "a" not in kept
    assert kept.claim("c", TOKEN) is visit and "b" not in kept, (
        "the new page came before the old one was missed"
    )
    kept.leave("b")
    assert kept.of("c") is visit, "a late farewell of the old page changes nothing"
    kept.leave("c")
    now[0] += 6
    assert kept.claim("d", TOKEN) is not visit
    kept.leave("d")
    now[0] += 6
    kept.sweep()
    assert len(kept) == 0
    for bad in ("", "short", "x" * 65, "with blank and so on"):
        kept.claim("e", bad)
        kept.leave("e")
        assert len(kept) == 0, "without a token nothing is kept"


def test_one_timer_waits_for_all_who_went_away(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    monkeypatch.setattr(
        visits.threading,
        "Timer",
        lambda seconds, then: made.append(  # type: ignore[attr-defined]
            SimpleNamespace(
                seconds=seconds, then=then, start=lambda: None, cancel=lambda: gone.append(1)
            )
        )
        or made[-1],
    )
    gone: list[int] = []
    now = [1000.0]
    monkeypatch.setattr(visits, "time", SimpleNamespace(monotonic=lambda: now[0]))
    kept = visits.Visits(patience=5)
    for i in range(8):
        now[0] += 0.5
        kept.claim(f"page{i}", f"{i}{TOKEN}")
        kept.leave(f"page{i}")
    assert [one.seconds for one in made] == [6.0], "for the first who went"
    now[0] = 1000.5 + 6
    made[0].then()
    assert len(kept) == 6 and [one.seconds for one in made] == [6.0, 1.0], (
        "and then for the first of those who are left"
    )
    now[0] += 60
    made[1].then()
    assert len(kept) == 0 and len(made) == 2
    kept.patience = 5
    kept.claim("a", TOKEN), kept.leave("a")
    kept.patience = 1
    kept.claim("b", TOKEN[::-1]), kept.leave("b")
    assert made[-1].seconds == 2.0 and gone == [1], "who is to be forgotten sooner takes its place"


def test_sliders_give_whole_numbers() -> None:
    given = components.overrides(
        components.SAMPLING, (8.0, 0.8, 1.0, 320.0, None, "judge", "kv", 0.25)
    )
    assert given["rollouts"] == 8 and isinstance(given["rollouts"], int) and "seed" not in given


def test_examples_come_by_family_and_the_package_lives_without_them(
    tmp_path: Path, desk: AppSession
) -> None:
    families = {session.family(p) for p in desk.examples.values()}
    one = sorted(families)[0]
    update, text = Solve(desk).examples_of(one)
    assert (
        text == update["value"] == update["choices"][0]
        and session.family(desk.examples[text]) == one
    )
    known = next(iter(desk.examples.values()))
    kin, example, text = Solve(desk).take(gr.EventData(None, {"id": known.id}))
    assert kin == session.family(known) and example["value"] == text == known.text
    for bad in ({"id": "nothing"}, {"id": {"path": "/etc/passwd"}}, ["x"]):
        assert all(map(skipped, Solve(desk).take(gr.EventData(None, bad))))
    assert session.load_examples(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text("nonsense")
    assert session.load_examples(tmp_path / "bad.jsonl")
    known = next(iter(desk.examples.values()))
    assert desk.problem(known.text).id == known.id and desk.problem(known.text).answer is None


@pytest.fixture(scope="module")
def app() -> gr.Blocks:
    return build(FakeEngine())


def test_the_app_composes_with_one_queue_for_the_model(app: gr.Blocks) -> None:
    by_name = {fn.api_name: fn for fn in app.fns.values() if fn.api_visibility == "public"}
    assert set(by_name) == set(api.ENDPOINTS)
    model = [fn for fn in app.fns.values() if fn.concurrency_id == "model"]
    assert all(fn.concurrency_limit == 1 for fn in model)
    panels = {"begin", "locate", "stream"}
    assert panels | set(api.WORK) <= {fn.fn.__name__ for fn in model}
    begins = [fn for fn in app.fns.values() if fn.fn is not None and fn.fn.__name__ == "begin"]
    quick = {
        "keep",
        "discard",
        "said_right",
        "said_wrong",
        "delete",
        "import_zip",
        "quarantine",
        "release",
        "add_tag",
        "add_note",
        "tag_picked",
        "untag_picked",
        "export_all",
        "export_picked",
        "export_peft",
        "clicked",
        "press",
    }
    private = [fn for fn in app.fns.values() if fn.fn is not None and fn.api_visibility != "public"]
    waits = {fn.fn.__name__ for fn in private if fn.queue}
    assert quick <= {fn.fn.__name__ for fn in private} and not quick & waits, (
        "a full queue keeps nobody from keeping a memory"
    )
    assert len(begins) == 11 and all(fn.trigger_mode == "multiple" for fn in begins), (
        "gradio would ignore a press after a stop"
    )


def test_the_browser_cuts_no_problem(app: gr.Blocks) -> None:
    """A limit of the box would drop the end of what is pasted, without a word; the server refuses
    it with one."""
    boxes = {
        b.elem_id: b.max_length
        for b in app.blocks.values()
        if isinstance(b, gr.Textbox) and b.elem_id
    }
    assert (
        boxes["lm-problem"] is None
        and boxes["lm-distil-problem"] is None
        and not any(boxes.values())
    )


def test_templates_are_static_and_state_is_plain(app: gr.Blocks) -> None:
    for block in app.blocks.values():
        if isinstance(block, gr.HTML):
            assert "${" not in block.html_template and "{{" not in block.html_template
        if isinstance(block, gr.State):
            assert isinstance(block.value, str)


def test_launch_is_hardened_and_fetches_nothing_from_elsewhere() -> None:
    options = launch_options(FakeEngine())
    assert (
        options["show_error"] is False
        and options["strict_cors"] is True
        and options["allowed_paths"] == []
    )
    bank = str(Settings().bank.absolute())
    assert {bank, f"{bank}-wal", f"{bank}-journal", str(Path(bank).parent / "streams")} < set(
        options["blocked_paths"]
    )
    assert options["ssr_mode"] is False and options["enable_monitoring"] is False
    page = options["head"].replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    # the page around a Space: it is told the address, and nothing is fetched from it
    around = '"https://huggingface.co"'
    assert (
        page.count(around) == 2
        and f"referrer.startsWith({around})" in page
        and f"}}, {around});" in page
    )
    page = page.replace(around, "")
    assert not re.search(r"""https?://|src=["']?//|href=["']?//""", page)
    assert (
        "fonts.googleapis" not in str(options["theme"]._font_css)
        and not options["theme"]._stylesheets
    )
    assert server.katex("js") and server.katex("css"), (
        "this gradio has no KaTeX module: formulas would stay LaTeX"
    )
    assert server.plotly_script() is not None


def test_runs_of_several_visitors_do_not_mix(desk: AppSession) -> None:
    results: dict[str, Receipt | None] = {}

    def one(name: str, text: str) -> None:
        asked(desk, text, who=visitor(name), mode="off")
        results[name] = last_receipt(desk.visit(visitor(name)))

    threads = [threading.Thread(target=one, args=(f"v{i}", f"{i} plus {i}?")) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {name: r.problem.text for name, r in results.items()} == {
        f"v{i}": f"{i} plus {i}?" for i in range(4)
    }
