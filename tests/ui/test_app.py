"""A page is opened, reloaded and left; the app as a whole, its files and its downloads."""

from __future__ import annotations

import ast
import re
import shutil
import threading
import zipfile
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from latentmem import ui
from latentmem.bank import notes as bank_notes
from latentmem.records import LatentmemError, Receipt
from latentmem.settings import Settings
from latentmem.ui import api, build, components, launch_options, server
from latentmem.ui import session as visits
from latentmem.ui.api import Endpoints
from latentmem.ui.app import Page
from latentmem.ui.map import actions
from latentmem.ui.panels import distil
from latentmem.ui.panels.distil import Distil
from latentmem.ui.panels.solve import Solve
from latentmem.ui.session import EXPORTS_KEPT, AppSession, last_receipt
from latentmem.ui.views import distillation, stream
from tests.evaluation.test_metrics import result
from tests.fake_engine import FakeEngine
from tests.memory_samples import asks
from tests.ui.test_hosting import shared_engine
from tests.ui_samples import (
    ANN,
    BO,
    SETTINGS,
    TOKEN,
    arrived,
    asked,
    distilled,
    new_session,
    pressed,
    skipped,
    steps,
    text_of,
    visitor,
)

# ---------- a page is opened, reloaded and left


def test_the_address_opens_a_memory_and_fills_the_box(session: AppSession) -> None:
    name = session.engine.bank.infos()[1].id
    page = arrived(session, visitor(memory=name, problem="${1+1}"))
    assert page["problem"] == "${1+1}" and page["map_chosen"] == name
    assert "<b>2</b> memories" in text_of(page["facts"]) and skipped(page["status"])
    page = arrived(session, visitor("b", memory="m000nothere"))
    assert "alert" in text_of(page["map_notice"]) and page["map_chosen"] == ""
    assert not skipped(arrived(session, visitor("c", panel="nonsense"))["facts"])


def test_a_reload_brings_the_work_back(session: AppSession) -> None:
    first, again = visitor("first"), visitor("again")
    arrived(session, first, TOKEN)
    asked(session, who=first, seed=7), distilled(session, BO, who=first)
    Solve(session).compare.press(
        next(i.id for i in session.engine.bank.infos() if i.problem.source == "trains"), first
    )
    columns = list(Solve(session).compare.begin(first))[-1]
    Distil(session).compare.press(distil.SAME, first)
    trial = list(Distil(session).compare.begin(first))[-1]
    Page(session).leave(first)
    page = arrived(session, again, TOKEN)
    assert page["columns"] == columns and "Side by side" in text_of(columns)
    assert (page["steps"], page["learning_rate"], page["virtual_tokens"]) == (4, 1e-3, 20)
    assert page["problem"] == ANN
    assert page["seed"] == 7
    assert "Receipt" in text_of(page["receipt"])
    assert page["cards"]
    assert page["distil_problem"] == BO and page["distil_choice"]["visible"]
    assert page["distil_columns"] == [part for part in trial if part[0] == "row-0"] != [], (
        "before and after the memory, too"
    )
    assert session.visit(again).star is not None
    assert Distil(session).keep(again).after["visible"], "the memory that waited can still be kept"
    page = arrived(session, visitor("stranger"), TOKEN[::-1])
    assert skipped(page["problem"]) and skipped(page["receipt"])
    page = arrived(session, visitor("linked", problem="Another?"), TOKEN)
    assert page["problem"] == "Another?" and skipped(page["receipt"])


def test_a_run_goes_on_while_its_page_is_reloaded(session: AppSession) -> None:
    session.engine.pace = 0.01
    first, again = visitor("first"), visitor("again")
    arrived(session, first, TOKEN)
    stream = pressed(Solve, session, first, ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    stream.close()
    Page(session).leave(first)
    page = arrived(session, again, TOKEN)
    assert page["stop_button"]["interactive"] and not page["receipt"]
    shown = list(Solve(session).resume(again))
    assert "Receipt" in text_of(shown[-1].receipt) and session.visit(again).star is not None
    (late,) = Solve(session).resume(again)
    assert "Receipt" in text_of(late.receipt) and late.press_button["interactive"], (
        "it ended while the page was loading"
    )
    assert all(map(skipped, next(iter(Distil(session).resume(again)))))


def test_a_run_that_nobody_comes_back_to_is_stopped(
    session: AppSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visits, "ORPHAN", 0.05)
    session.engine.pace = 0.02
    arrived(session, visitor(), TOKEN)
    stream = pressed(Solve, session, visitor(), ANN, "auto", None, *SETTINGS)
    next(stream), next(stream)
    run = session.visit(visitor()).runs["solve"]
    Page(session).leave(visitor())
    run.thread.join(20)
    assert run.done and run.scene.receipt is None and session.engine.shared["open"] == 0
    del stream


def test_a_new_run_waits_for_one_that_is_ending(session: AppSession) -> None:
    session.model_work.acquire()
    stream = pressed(Solve, session, visitor(), ANN, "auto", None, *SETTINGS)
    next(stream)
    assert "Waiting for another run" in text_of(next(stream).status)
    session.model_work.release()
    assert "Receipt" in text_of(list(stream)[-1].receipt) and not session.model_work.locked()


def test_visits_are_bounded_and_the_oldest_is_stopped(session: AppSession) -> None:
    run = session.visit(visitor("first")).start("solve")
    for i in range(visits.MOST_VISITS):
        session.visit(visitor(f"v{i}"))
    assert run.stop.is_set() and len(session.visits) == visits.MOST_VISITS


def test_a_flood_of_callers_throws_no_page_out() -> None:
    kept = visits.Visits(most=4)
    work, idle = kept.claim("work", TOKEN), kept.claim("idle", TOKEN[::-1])
    work.start("solve").asked = "a press that waits"
    kept.claim("went", "went" + TOKEN), kept.leave("went")
    for i in range(9):
        assert kept.of(f"caller{i}") is kept._live[f"caller{i}"], (
            "the one who calls is never the one who goes"
        )
    assert len(kept) == 4
    assert {"work", "idle", "caller8"} <= set(kept._live)
    assert len(kept._parked) == 1
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


def test_examples_come_by_family(session: AppSession) -> None:
    families = {visits.family(p) for p in session.examples.values()}
    one = sorted(families)[0]
    update, text = Solve(session).examples_of(one)
    assert text == update["value"] == update["choices"][0]
    assert visits.family(session.examples[text]) == one
    known = next(iter(session.examples.values()))
    kin, example, text = Solve(session).take(gr.EventData(None, {"value": known.id}))
    assert kin == visits.family(known) and example["value"] == text == known.text
    for bad in ({"id": "nothing"}, {"id": {"path": "/etc/passwd"}}, ["x"]):
        assert all(map(skipped, Solve(session).take(gr.EventData(None, bad))))
    known = next(iter(session.examples.values()))
    assert session.problem(known.text).id == known.id and session.problem(known.text).answer is None


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
    assert len(begins) == 15 and all(fn.trigger_mode == "multiple" for fn in begins), (
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
    assert boxes["lm-problem"] is None
    assert boxes["lm-distil-problem"] is None
    assert not any(boxes.values())


def test_templates_are_static_and_state_is_plain(app: gr.Blocks) -> None:
    for block in app.blocks.values():
        if isinstance(block, gr.HTML):
            assert "${" not in block.html_template and "{{" not in block.html_template
        if isinstance(block, gr.State):
            assert isinstance(block.value, str)


def test_launch_is_hardened_and_fetches_nothing_from_elsewhere() -> None:
    options = launch_options(FakeEngine())
    assert options["show_error"] is False
    assert options["strict_cors"] is True
    assert options["allowed_paths"] == []
    bank = str(Settings().bank.absolute())
    assert {bank, f"{bank}-wal", f"{bank}-journal", str(Path(bank).parent / "streams")} < set(
        options["blocked_paths"]
    )
    assert options["ssr_mode"] is False and options["enable_monitoring"] is False
    page = options["head"].replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    # the page around a Space: it is told the address, and nothing is fetched from it
    around = '"https://huggingface.co"'
    assert page.count(around) == 2
    assert f"referrer.startsWith({around})" in page
    assert f"}}, {around});" in page
    page = page.replace(around, "")
    assert not re.search(r"""https?://|src=["']?//|href=["']?//""", page)
    assert "fonts.googleapis" not in str(options["theme"]._font_css)
    assert not options["theme"]._stylesheets
    assert server.katex("js") and server.katex("css"), (
        "this gradio has no KaTeX module: formulas would stay LaTeX"
    )
    assert server.plotly_script() is not None


def test_runs_of_several_visitors_do_not_mix(session: AppSession) -> None:
    results: dict[str, Receipt | None] = {}

    def one(name: str, text: str) -> None:
        asked(session, text, who=visitor(name), mode="off")
        results[name] = last_receipt(session.visit(visitor(name)))

    threads = [threading.Thread(target=one, args=(f"v{i}", f"{i} plus {i}?")) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {name: r.problem.text for name, r in results.items()} == {
        f"v{i}": f"{i} plus {i}?" for i in range(4)
    }


# ---------- downloads: many exports leave few files behind, also in gradio's own folder


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of what gradio serves."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    return tmp_path / "gradio"


def files(folder: Path, name: str = "*") -> list[Path]:
    return [f for f in folder.rglob(name) if f.is_file()]


@pytest.mark.parametrize("kind", ["bank", "peft", "button", "adapter"])
def test_only_the_last_two_exports_of_a_kind_are_kept(kind: str, served: Path) -> None:
    session = new_session()
    one = session.engine.bank.infos()[0].id
    make: Any = {
        "bank": lambda: Endpoints(session).export_bank(),
        "peft": lambda: Endpoints(session).export_peft(one),
        "button": lambda: actions.export_all(asks(session))[0]["value"],
        "adapter": lambda: actions.export_peft(asks(session, chosen=one))[0]["value"],
    }[kind]
    made = [make() for _ in range(6)]
    assert [Path(f).exists() for f in made] == [False] * 4 + [
        True
    ] * EXPORTS_KEPT and EXPORTS_KEPT == 2
    assert sorted(files(served)) == sorted(map(Path, made[-2:])) and all(
        zipfile.is_zipfile(f) for f in made[-2:]
    )


def test_an_export_of_another_kind_does_not_push_one_out(served: Path) -> None:
    session = new_session()
    bank = Endpoints(session).export_bank()
    for info in session.engine.bank.infos() * 3:
        Endpoints(session).export_peft(info.id)
    assert zipfile.is_zipfile(bank) and len(files(served)) == 3


def test_an_export_that_fails_leaves_nothing_and_takes_nothing_away(served: Path) -> None:
    session = new_session()
    kept = [Endpoints(session).export_peft(i.id) for i in session.engine.bank.infos()]
    for _ in range(3):
        with pytest.raises(gr.Error, match="no memory"):
            Endpoints(session).export_peft("m000nothere")
        assert not actions.export_peft(asks(session, chosen="m000nothere"))[0]["visible"]
    assert sorted(files(served)) == sorted(map(Path, kept))
    assert not [f for f in next(served.iterdir()).iterdir() if not any(f.iterdir())], (
        "not even an empty folder"
    )


def test_what_a_visitor_exported_goes_with_the_visitor(served: Path) -> None:
    session = AppSession(shared_engine())
    a, b = session.at(visitor("a")), session.at(visitor("b"))
    Endpoints(a).distil(ANN, request=visitor("a"))
    mine, theirs = (
        Endpoints(a).export_bank(),
        Endpoints(b).export_peft(session.engine.bank.infos()[0].id),
    )
    session.leave(visitor("a"))
    assert not Path(mine).exists() and files(served) == [Path(theirs)]
    session.leave(visitor("b"))
    assert not files(served)


def test_the_open_adapter_is_zipped_and_no_more(served: Path, tmp_path: Path) -> None:
    session = new_session()
    made = actions.adapter_zip(session, session.engine.bank.infos()[0].id[:8], tmp_path)
    assert files(tmp_path, "*.safetensors") == [] and zipfile.is_zipfile(made)
    with pytest.raises(LatentmemError, match="no memory"):
        actions.adapter_zip(session, "m000nothere", tmp_path)


def test_a_client_that_exports_over_and_over_does_not_fill_the_disk(
    served: Path, tmp_path: Path
) -> None:
    """Through a server: gradio copies a file that lies elsewhere, and keeps each copy of other
    bytes for a day."""
    from gradio_client import Client

    session = new_session()
    app = build(session.engine)  # type: ignore[arg-type]
    bank = app.latentmem_session.engine.bank
    _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, **launch_options(session.engine))  # type: ignore[arg-type]
    try:
        client, got = Client(url, verbose=False, download_files=tmp_path / "got"), []
        for n in range(EXPORTS_KEPT + 1):
            bank_notes.tag(bank, [bank.infos()[0].id], f"tag {n}")  # other bytes each time
            got.append(client.predict(api_name="/export_bank"))
            shutil.copy(got[-1], tmp_path / f"{n}.zip")
        whole = {(tmp_path / f"{n}.zip").read_bytes() for n in range(len(got))}
        assert len(whole) == len(got), "each came through, as it was then"
        assert len(files(served, "*.zip")) == EXPORTS_KEPT
    finally:
        app.close(verbose=False)


# ---------- the app's own files

UI = Path(ui.__file__).parent
VIEWS = sorted((UI / "views").glob("*.py"))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def used(file: Path) -> tuple[frozenset[str], frozenset[str], tuple[ast.ImportFrom, ...]]:
    """(names, "owner.name" of attributes) that a file reads, and its imports. What it only imports,
    or lists in `__all__`, it does not read."""
    nodes = list(ast.walk(parsed(file)))
    return (
        frozenset(n.id for n in nodes if isinstance(n, ast.Name)),
        frozenset(
            f"{n.value.id}.{n.attr}"
            for n in nodes
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        ),
        tuple(n for n in nodes if isinstance(n, ast.ImportFrom)),
    )


@cache
def taken(module: str) -> frozenset[str]:
    """What other files of the package use of a module of the app."""
    found: set[str] = set()
    for file in UI.parent.rglob("*.py"):
        names, attributes, imports = used(file)
        found |= {a.partition(".")[2] for a in attributes if a.startswith(f"{module}.")}
        for n in imports:
            if (n.module or "").rpartition(".")[2] == module:
                found |= {alias.name for alias in n.names} & names
    return frozenset(found)


@pytest.mark.parametrize("file", VIEWS, ids=lambda p: p.name)
def test_no_view_is_there_for_the_tests_alone(file: Path) -> None:
    own = {n.name for n in parsed(file).body if isinstance(n, ast.FunctionDef)}
    assert not own - taken(file.stem) - used(file)[0]


def test_a_scene_has_no_member_that_nobody_asks() -> None:
    nodes = [
        n
        for file in [
            *UI.rglob("*.py"),
            *UI.parent.glob("engine/*.py"),
            UI.parent / "cli" / "console.py",
        ]
        for n in ast.walk(parsed(file))
    ]
    read = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    called = {
        n.func.attr for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)
    }
    [scene] = [
        n
        for n in parsed(UI.parent / "engine" / "run_state.py").body
        if isinstance(n, ast.ClassDef) and n.name == "Scene"
    ]
    for member in [n for n in scene.body if isinstance(n, ast.FunctionDef)]:
        assert member.name in (read if member.decorator_list else called), member.name


@pytest.mark.parametrize("file", VIEWS, ids=lambda p: p.name)
def test_the_scripts_that_a_view_names_are_there(file: Path) -> None:
    for name in re.findall(r"`(\w+\.(?:js|css))`", file.read_text(encoding="utf-8")):
        assert (UI / "static" / name).is_file(), name


def test_every_event_that_an_area_promises_is_listened_to() -> None:
    """gradio takes the names of an area's events from the text of its script; one text may serve
    several areas."""
    app = ui.build(FakeEngine())
    shared = (components.LIVE, components.GUIDE, components.FIGURE)
    areas = [b for b in app.blocks.values() if isinstance(b, gr.HTML) and b.js_on_load in shared]
    assert {a.js_on_load for a in areas} == set(shared)
    heard = {
        (app.blocks[i].js_on_load, event)
        for fn in app.fns.values()
        for i, event in fn.targets
        if isinstance(app.blocks.get(i), gr.HTML)
    }
    for area in areas:
        for event in re.findall(r"'(\w+)'", area.js_on_load.partition("/* triggers")[2]):
            assert (area.js_on_load, event) in heard, f"{area.elem_id}: {event}"


def test_the_script_of_the_curves_reads_what_they_give() -> None:
    script = (UI / "static" / "map.js").read_text(encoding="utf-8").partition("- the map")[0]
    figures = [
        distillation.curve_figure(steps(6), best=3),
        stream.accuracy_figure([result("a", "elm", True)], 3),
    ]
    assert set(re.findall(r"\bfigure\??\.(\w+)", script.replace("lm.figure", ""))) <= set().union(
        *figures
    )
    assert ("customdata" in script) is any(
        "customdata" in curve for figure in figures for curve in figure["data"]
    )
    assert "trigger(" not in script, "they are to look at"
