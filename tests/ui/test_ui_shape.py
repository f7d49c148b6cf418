"""The app's own files: no view is there for the tests alone, and what they name and promise is
there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import gradio as gr
import pytest

from latentmem import ui
from latentmem.ui import components
from latentmem.ui.views import distillation, stream
from tests.evaluation.test_metrics import result
from tests.fake_engine import FakeEngine
from tests.ui_samples import steps

UI = Path(ui.__file__).parent
VIEWS = sorted((UI / "views").glob("*.py"))


@cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@cache
def used(file: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(names, "owner.name" of attributes) that a file reads. What it only imports, or lists in
    `__all__`, it does not."""
    nodes = list(ast.walk(parsed(file)))
    return (
        frozenset(n.id for n in nodes if isinstance(n, ast.Name)),
        frozenset(
            f"{n.value.id}.{n.attr}"
            for n in nodes
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name)
        ),
    )


@cache
def taken(module: str) -> frozenset[str]:
    """What other files of the package use of a module of the app."""
    found: set[str] = set()
    for file in UI.parent.rglob("*.py"):
        names, attributes = used(file)
        found |= {a.partition(".")[2] for a in attributes if a.startswith(f"{module}.")}
        for n in ast.walk(parsed(file)):
            if isinstance(n, ast.ImportFrom) and (n.module or "").rpartition(".")[2] == module:
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
    script = (UI / "static" / "map.js").read_text(encoding="utf-8")
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
