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

import pytest

from tests.browser_page import Page, drop, marks, serve_fake, solve

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


def violations(page: Page) -> list[str]:
    """What axe finds grave: rule, impact, the first elements."""
    if not page.run("return Boolean(window.axe)"):
        page.run(axe_script())
    page.driver.set_script_timeout(120)
    found = page.driver.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {resultTypes: ['violations']}).then(r => done(r.violations), e => "
        "done([{id: String(e), impact: 'critical', nodes: []}]))"
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
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve_fake(
        tmp_path_factory.mktemp("app") / "log", "--memories", "12", "--pace", "0.001"
    )


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=["wide", "narrow"])
def page(
    request: pytest.FixtureRequest, url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Page]:
    """A visitor who has solved, distilled, compared and opened a memory, so that every panel is
    full."""
    tab = Page(*request.param)
    tab.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": request.param[0],
            "height": request.param[1],
            "deviceScaleFactor": 1,
            "mobile": request.param[0] < 500,
        },
    )
    tab.open(url)
    solve(tab, "Zoe sorts 12 shells into 4 fraction boxes. How many shells lie in one box?")
    tab.click("#lm-compare")
    tab.until("return document.querySelectorAll('#lm-columns .column').length === 3")
    tab.click("#lm-distil-this")
    tab.until("return document.querySelector('#lm-outcome .outcome.open')")
    file = tmp_path_factory.mktemp("own") / "mine.txt"
    file.write_text("What are 2 and 3?\nWhat are 3 and 4?")
    drop(tab, "#lm-build-file", file)
    tab.until("return document.querySelector('#lm-build-table table')")
    tab.click("#lm-before-after")
    tab.until("return document.querySelectorAll('#lm-before-after-columns .column').length === 6")
    tab.tab("Memories")
    tab.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
    tab.click("table.bank tbody a[data-memory]")
    tab.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address")
    tab.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    yield tab
    tab.driver.quit()


def test_the_first_page(url: str) -> None:
    tab = Page()
    try:
        tab.open(url)
        assert violations(tab) == []
    finally:
        tab.driver.quit()


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
def test_a_panel_has_no_grave_violation(page: Page, panel: str) -> None:
    shown(page, panel, dark=False)
    assert violations(page) == []


@pytest.mark.parametrize(
    "page", [WIDE], ids=["wide"], indirect=True
)  # on a narrow screen the colours are the same
@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_no_grave_violation_in_the_dark(page: Page, panel: str) -> None:
    shown(page, panel, dark=True)
    assert violations(page) == []


def test_the_empty_part_of_a_slider_is_dark_in_the_dark(page: Page) -> None:
    page.run("document.querySelector('#lm-tabs button[role=tab][data-tab-id=solve]').click()")
    lights = {}
    for dark in (True, False):
        page.run("window.latentmem.setTheme(arguments[0])", dark)
        lights[dark] = page.run(
            "const tone = getComputedStyle(document.querySelector('.settings input[type=range]'))"
            ".getPropertyValue('--neutral-200').trim().slice(1);"
            "return [0, 2, 4].map((i) => parseInt(tone.slice(i, i + 2), 16) / 255)"
        )
    assert max(lights[True]) < 0.5 < min(lights[False])


def test_nothing_is_wider_than_the_screen(page: Page) -> None:
    for panel in PANELS:
        page.run(
            "document.querySelector(`#lm-tabs "
            "button[role=tab][data-tab-id=${arguments[0]}]`).click()",
            panel,
        )
        time.sleep(0.4)
        wide = page.run(
            "return [...document.querySelectorAll('.gradio-container *')].filter(e => "
            "e.getClientRects().length && !e.closest('.scroll, .katex, svg, .js-plotly-plot, "
            "[aria-hidden=true], .body, pre, .lm-tools, table, #lm-tabs .tab-container') && "
            "e.getBoundingClientRect().right > innerWidth + 2 && getComputedStyle(e).position !== "
            "'absolute').slice(0, 5).map(e => e.outerHTML.slice(0, 120))"
        )
        assert wide == [], panel


def test_one_long_number_pushes_nothing_off_the_screen(page: Page) -> None:
    """50! has 65 digits. The page clips what is too wide, so nobody could scroll to it."""
    page.run("document.querySelector('#lm-tabs button[role=tab][data-tab-id=solve]').click()")
    page.until(
        "return document.querySelector('#lm-receipt .receipt .used')?.getClientRects().length"
    )
    out = page.run(
        "const long = Object.assign(document.createElement('p'), { textContent: '3'.repeat(200) });"
        "document.querySelector('#lm-receipt .receipt .used').append(long);"
        "const wide = [...document.querySelectorAll('#lm-receipt *')].filter((e) => "
        "e.getClientRects().length && e.getBoundingClientRect().right > innerWidth + 2).map((e) "
        "=> e.outerHTML.slice(0, 80));long.remove(); return wide"
    )
    assert out == []


def test_an_open_receipt_has_no_grave_violation(page: Page) -> None:
    page.run("document.querySelector('#lm-tabs button[role=tab][data-tab-id=solve]').click()")
    page.click("#lm-receipt a[data-memory]")
    page.until(
        "const d = document.querySelector('#lm-memory-more .use details:has([data-receipt])');"
        "if (d) d.open = true; return Boolean(d)"
    )
    page.click("#lm-memory-more .use details [data-receipt]")
    page.until("return document.activeElement.matches('#lm-memory-more [data-focus]')")
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert violations(page) == [] and page.errors() == []
