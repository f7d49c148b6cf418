"""axe-core on every panel, light and dark, wide and narrow: no serious or critical violation.

The axe-core of the package axe-core-python, or the file that AXE_JS names (for example of `npm pack
axe-core`).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.browser_page import DRAWN, Page, drop, marks, solve

pytestmark = marks
PANELS = ("solve", "distil", "memories", "stream", "about")
GRAVE = ("serious", "critical")
WIDE, NARROW = (1440, 900), (390, 844)


def axe_script() -> str:
    """The source of axe-core."""
    if os.environ.get("AXE_JS"):
        return Path(os.environ["AXE_JS"]).read_text(encoding="utf-8")
    spec = find_spec("axe_core_python")
    if spec is None or spec.origin is None:
        pytest.skip("needs the package axe-core-python (the extra `test`)")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Page, **options: Any) -> list[str]:
    """What axe finds grave: rule, impact, the first elements. `options`: of `axe.run`. A formula's
    thousand parts are KaTeX's, and have the colours of the text around it."""
    if not page.run("return Boolean(window.axe)"):
        page.run(axe_script())
    page.driver.set_script_timeout(120)
    found = page.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run({exclude: ['.katex']}, {resultTypes: ['violations'], ...arguments[0]}).then(r => "
        "done(r.violations), e => done([{id: String(e), impact: 'critical', nodes: []}]))",
        options,
    )
    return [
        json.dumps(
            {
                "rule": v["id"],
                "impact": v["impact"],
                "nodes": [
                    (n["html"][:160], n.get("failureSummary", "")[:200]) for n in v["nodes"][:3]
                ],
            }
        )
        for v in found
        if v["impact"] in GRAVE
    ]


@pytest.fixture(scope="module")
def full(page: Page, url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The tab of a visitor who has solved, distilled, compared and opened a memory, so that every
    panel is full."""
    page.open_anew(url)
    assert violations(page) == [], "of the first page"
    solve(page, "Zoe sorts 12 shells into 4 fraction boxes. How many shells lie in one box?")
    page.click("#lm-compare")
    page.there("#lm-columns .column", 3)
    page.click("#lm-distil-this")
    page.there("#lm-outcome .outcome.open")
    file = tmp_path_factory.mktemp("own") / "mine.txt"
    file.write_text("What are 2 and 3?\nWhat are 3 and 4?")
    drop(page, "#lm-build-file", file)
    page.there("#lm-build-table table")
    page.click("#lm-before-after")
    page.there("#lm-before-after-columns .column", 6)
    page.tab("Memories")
    page.until(DRAWN, 12)
    page.click("table.bank tbody a[data-memory]")
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address")
    yield page
    page.run("window.latentmem.setTheme(false)")
    page.resize()


@pytest.fixture(params=[WIDE, NARROW], ids=["wide", "narrow"])
def sized(request: pytest.FixtureRequest, full: Page) -> Page:
    full.resize(*request.param)
    full.run("window.latentmem.setTheme(false)")
    return full


def shown(page: Page, panel: str, dark: bool) -> None:
    """Opens a panel and everything in it that opens."""
    page.run("window.latentmem.setTheme(arguments[0])", dark)
    page.run(
        "document.querySelector(`#lm-tabs button[role=tab][data-tab-id=${arguments[0]}]`).click()",
        panel,
    )
    page.until(
        "return document.querySelector('#lm-tabs button[aria-selected=true]').dataset.tabId === "
        "arguments[0]",
        panel,
    )
    page.run(
        "[...document.querySelectorAll('.settings > button')].filter(b => "
        "b.getClientRects().length && !b.classList.contains('open')).forEach(b => b.click())"
    )
    time.sleep(0.6)  # colours fade in
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_no_grave_violation(sized: Page, panel: str) -> None:
    """On a narrow screen the colours are the same."""
    narrow = sized.run("return innerWidth < 500")
    shown(sized, panel, dark=False)
    rules = {"rules": {"color-contrast": {"enabled": False}}} if narrow else {}
    assert violations(sized, **rules) == []


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_no_grave_violation_in_the_dark(full: Page, panel: str) -> None:
    """Where only the colours are others."""
    full.resize(*WIDE)
    shown(full, panel, dark=True)
    assert violations(full, runOnly=["color-contrast"]) == []


def test_the_empty_part_of_a_slider_is_dark_in_the_dark(full: Page) -> None:
    full.run("document.querySelector('#lm-tabs button[role=tab][data-tab-id=solve]').click()")
    lights = {}
    for dark in (True, False):
        full.run("window.latentmem.setTheme(arguments[0])", dark)
        lights[dark] = full.run(
            "const tone = getComputedStyle(document.querySelector('.settings input[type=range]'))"
            ".getPropertyValue('--neutral-200').trim().slice(1);"
            "return [0, 2, 4].map((i) => parseInt(tone.slice(i, i + 2), 16) / 255)"
        )
    assert max(lights[True]) < 0.5 < min(lights[False])


def test_nothing_is_wider_than_the_screen(sized: Page) -> None:
    for panel in PANELS:
        sized.run(
            "document.querySelector(`#lm-tabs "
            "button[role=tab][data-tab-id=${arguments[0]}]`).click()",
            panel,
        )
        time.sleep(0.4)
        wide = sized.run(
            "return [...document.querySelectorAll('.gradio-container *')].filter(e => "
            "e.getClientRects().length && !e.closest('.scroll, .katex, svg, .js-plotly-plot, "
            "[aria-hidden=true], .body, pre, .lm-tools, table, #lm-tabs .tab-container') && "
            "e.getBoundingClientRect().right > innerWidth + 2 && getComputedStyle(e).position !== "
            "'absolute').slice(0, 5).map(e => e.outerHTML.slice(0, 120))"
        )
        assert wide == [], panel


def test_one_long_number_pushes_nothing_off_the_screen(sized: Page) -> None:
    """50! has 65 digits. The page clips what is too wide, so nobody could scroll to it."""
    sized.run("document.querySelector('#lm-tabs button[role=tab][data-tab-id=solve]').click()")
    sized.until(
        "return document.querySelector('#lm-receipt .receipt .used')?.getClientRects().length"
    )
    out = sized.run(
        "const long = Object.assign(document.createElement('p'), { textContent: '3'.repeat(200) });"
        "document.querySelector('#lm-receipt .receipt .used').append(long);"
        "const wide = [...document.querySelectorAll('#lm-receipt *')].filter((e) => "
        "e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 2).map((e) "
        "=> e.outerHTML.slice(0, 80));long.remove(); return wide"
    )
    assert out == []


def test_an_open_receipt_has_no_grave_violation(sized: Page) -> None:
    sized.run("document.querySelector('#lm-tabs button[role=tab][data-tab-id=solve]').click()")
    sized.click("#lm-receipt a[data-memory]")
    sized.until(
        "const d = document.querySelector('#lm-memory-more .use details:has([data-receipt])');"
        "if (d) d.open = true; return Boolean(d)"
    )
    sized.click("#lm-memory-more .use details [data-receipt]")
    sized.until("return document.activeElement.matches('#lm-memory-more [data-focus]')")
    sized.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert violations(sized) == [] and sized.errors() == []
