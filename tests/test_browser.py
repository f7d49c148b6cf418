"""The app in a real Chromium: the journey of a visitor, and that foreign text stays text."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .browser_page import CHROMIUM, DRIVER, Page, click_point, free_port, marks, serve, serve_fake, solve

NASTY = "<img src=x onerror='window.hurt=1'> ${window.hurt=1} {{window.hurt}} </div><script>window.hurt=1</script> \\frac{1}{2}"

pytestmark = marks


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    yield from serve_fake(tmp_path_factory.mktemp("app") / "log", "--memories", "12", "--pace", "0.004")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    tab = Page()
    yield tab
    tab.driver.quit()


def test_the_journey(page: Page, url: str) -> None:
    """Solve, distil, try, keep, ask a neighbour, read the receipt, see why, delete, reload."""
    page.open(url)
    assert "12 memories" in page.text("#lm-facts") and "Ask again" in page.text("#lm-status")
    solve(page, "Zoe sorts 12 shells into 4 boxes. How many shells lie in one box?")
    assert page.run("return document.querySelectorAll('#lm-cards .card').length") >= 8
    page.until("return document.querySelector('#lm-cards .katex')")  # formulas are set
    assert page.run("return document.querySelectorAll('#lm-votes .seg').length") >= 2
    page.click("#lm-compare")
    page.until("return document.querySelectorAll('#lm-columns .column').length === 3")  # without, with it, with another one
    page.click("#lm-replay")
    page.until("return document.querySelector('#lm-said').innerText.includes('same tokens')")
    page.click("#lm-distil-this")
    page.until("return document.querySelectorAll('#lm-curve .scatterlayer .trace').length === 3")
    page.until("return document.querySelector('#lm-outcome .outcome.open')")
    page.click("#lm-before-after")
    page.until("return document.querySelectorAll('#lm-before-after-columns .column').length === 6")
    assert "12 memories" in page.text("#lm-facts")
    page.click("#lm-keep")
    page.until("return document.querySelector('#lm-outcome .outcome.kept')")
    page.until("return document.querySelector('#lm-facts').innerText.includes('13 memories')")
    name = page.run("return document.querySelector('#lm-outcome a[data-memory]').dataset.memory")
    page.tab("Solve")
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    assert "Zoe sorts 12 shells" in page.text("#lm-receipt .used")
    page.click("#lm-receipt a[data-memory]")  # why this memory?
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]", name)
    page.until("return Number(document.querySelector('#lm-map .lm-figure').dataset.points) === 13")
    assert f"?memory={name}" in page.driver.current_url or f"&memory={name}" in page.driver.current_url
    page.until("return Boolean(window.latentmem.mapView.mark.star)")  # the problem, with edges to what is near
    page.click("#lm-delete")
    page.click("#lm-really")
    page.until("return document.querySelector('#lm-facts').innerText.includes('12 memories')")
    assert page.reload() == []
    page.until("return document.querySelector('#lm-facts').innerText.includes('12 memories')")
    assert "memory=" not in page.driver.current_url
    assert page.errors() == []


def test_a_click_on_a_point_opens_its_memory_also_after_an_update(page: Page, url: str) -> None:
    page.open(url)
    page.tab("Memories")
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
    for _ in range(2):
        name = click_point(page)
        page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]", name)
        assert name in page.driver.current_url
        page.write("#lm-ask textarea, #lm-ask input", "A train and a bus")  # a star: Python sends another figure
        page.click("#lm-locate")
        page.until("return Boolean(window.latentmem.mapView.mark.star)")
    assert page.errors() == []


def test_a_map_that_changed_while_it_was_not_shown_is_drawn_when_it_is(page: Page, url: str) -> None:
    page.open(url)
    page.tab("Memories")
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
    page.tab("Solve")
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    page.click("#lm-receipt a[data-memory]")
    page.until("return Boolean(window.latentmem.mapView.mark.star)")
    page.until("const texts = (layout) => (layout.annotations ?? []).map(a => [a.x, a.y, a.text].join()).join(' ');"
               "const meant = texts(latentmem.mapView.mark.layout);"
               "return meant && meant === texts(document.querySelector('#lm-map .lm-figure').layout)", seconds=20)
    assert page.errors() == []


def test_foreign_text_stays_text(page: Page, url: str) -> None:
    page.open(url)
    solve(page, NASTY)
    page.click("#lm-distil-this")
    page.until("return document.querySelector('#lm-outcome .outcome.open')")
    page.click("#lm-keep")
    page.until("return document.querySelector('#lm-outcome .outcome.kept')")
    page.tab("Memories")
    page.click("table.bank tbody tr:has(a) a")
    page.until("return document.querySelector('#lm-memory .problem')")
    page.write("#lm-ask textarea, #lm-ask input", NASTY)
    page.click("#lm-locate")
    page.until("return Boolean(window.latentmem.mapView.mark.star)")
    page.until("return document.querySelector('#lm-table').innerText.includes('<img src=x')")
    assert "${window.hurt=1}" in page.run("return document.querySelector('#lm-ask textarea, #lm-ask input').value")
    assert page.run("return window.hurt ?? null") is None
    assert page.run("return document.querySelectorAll('.lm-live img, .lm-live script, .lm-figure img').length") == 0
    assert page.errors() == []


def test_the_address_of_a_memory_and_the_keyboard(page: Page, url: str) -> None:
    page.open(url)
    page.tab("Memories")
    page.until("return document.querySelector('table.bank tbody a')")
    name = page.run("return document.querySelector('table.bank tbody tr:last-child a').dataset.memory")
    page.open(f"{url}?memory={name}")
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]", name)
    from selenium.webdriver.common.keys import Keys

    page.run("document.querySelector('table.bank tbody tr:first-child a').focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)  # a name in the table opens with Enter
    page.until("return document.querySelector('#lm-memory [data-address]').dataset.address !== arguments[0]", name)
    assert page.errors() == []


def test_a_page_that_opens_on_the_map_leads_to_the_other_panels(page: Page, url: str) -> None:
    """Only the panel in the address is built at first."""
    page.open(url)
    page.tab("Memories")
    page.until("return document.querySelector('table.bank tbody a')")
    name = page.run("return document.querySelector('table.bank tbody tr:last-child a').dataset.memory")
    page.open(f"{url}?memory={name}")
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]", name)
    assert page.run("return document.querySelector('#lm-solve')") is None
    page.run("[...document.querySelectorAll('button')].find(b => b.innerText === 'Try it on a problem').click()")
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    page.until("return document.querySelector('#lm-receipt a[data-memory]')?.dataset.memory === arguments[0]", name)
    assert page.errors() == []


def test_the_points_can_be_seen_and_opened_before_plotly_is_there(page: Page, url: str) -> None:
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*plotly*"]})
    try:
        page.open(f"{url}?panel=memories")
        page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
        fetched = "return performance.getEntriesByType('resource').filter(e => e.name.endsWith('latentmem/map')).length"
        assert page.run(fetched) == 1, "the browser began with it, and the page took that"
        page.until("return latentmem.mapView.cloud.n === latentmem.mapData.points.ids?.split('\\n').length")
        assert page.run("const c = document.querySelector('#lm-map canvas');"
                        "const drawn = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
                        "return drawn.some((value, k) => k % 4 === 3 && value === 255)")
        page.until("return latentmem.mapView.mark.stamp === latentmem.mapView.stamp")  # a star of before may widen the picture
        name = click_point(page)
        page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address === arguments[0]", name)
        before = page.run("return latentmem.mapView.view().sx")
        page.click("[data-zoom=in]")
        assert page.run("return latentmem.mapView.view().sx") > 1.3 * before
    finally:
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    at = "const v = latentmem.mapView; return [v.view().sx, ...v.at(0)]"
    early = page.run(at)
    page.run("const s = document.createElement('script'); s.src = latentmem.plotlyAt; document.head.append(s)")
    page.until("return document.querySelector('#lm-map .lm-figure.js-plotly-plot .lm-cloud')")
    assert page.run(at) == pytest.approx(early, abs=0.5), "the picture jumps when plotly takes it over"
    page.open(url)


def test_stop_and_the_place_in_the_queue(page: Page, url: str) -> None:
    page.open(url)
    other = Page(390, 844)
    try:
        other.open(url)
        for tab, text in ((page, "Answer this slowly?"), (other, "Second in the queue?")):
            tab.write("#lm-problem textarea", text)
        page.click("#lm-solve")
        page.until("return document.querySelector('#lm-cards .card')")
        other.click("#lm-solve")
        other.until("return /queue: 1\\/1/.test(document.querySelector('#lm-status').innerText)")
        page.click("#lm-stop")
        page.until("return document.querySelector('#lm-status').innerText.includes('Stopped')")
        page.until("return !document.querySelector('#lm-solve').disabled")
        assert "writing…" not in page.text("#lm-cards")
        other.until("return document.querySelector('#lm-receipt .receipt')")  # the stopped run made room
        assert other.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        assert page.errors() == [] and other.errors() == []
    finally:
        other.driver.quit()


@pytest.mark.real
def test_the_journey_with_a_real_model(tmp_path: Path) -> None:
    """SmolLM2-135M is too weak to learn; what is tested is that every panel lives on the real engine's records."""
    port = free_port()
    small = {"MODEL": "smollm2-135m", "ROLLOUTS": "4", "MAX_NEW_TOKENS": "48", "STEPS": "1",
             "BANK": str(tmp_path / "bank.sqlite")}
    env = {**os.environ, **{f"LATENTMEM_{k}": v for k, v in small.items()}, "GRADIO_SERVER_PORT": str(port)}
    page = Page()
    server = serve([sys.executable, "app.py"], port, tmp_path / "log", env)
    try:
        page.open(next(server))
        page.write("#lm-problem textarea", "What is 2 + 3? Answer with \\boxed{5}.")
        page.click("#lm-solve")
        page.until("return document.querySelector('#lm-cards .card')", seconds=600)
        page.until("return document.querySelector('#lm-receipt .receipt, #lm-status .warn')", seconds=300)
        assert page.text("#lm-status .warn") == ""
        page.click("#lm-distil-this")
        page.until("return document.querySelector('#lm-outcome .outcome, #lm-distil-status .warn')", seconds=300)
        assert page.text("#lm-distil-status .warn") == ""
        if page.run("return document.querySelector('#lm-outcome .outcome.open')"):
            page.click("#lm-keep")
            page.until("return document.querySelector('#lm-outcome .outcome.kept')")
        page.tab("Memories")
        page.write("#lm-ask textarea, #lm-ask input", "What is 2 + 4?")
        page.click("#lm-locate")
        page.until("return document.querySelector('#lm-map .js-plotly-plot, #lm-map .lm-figure.js-plotly-plot')")
        assert page.errors() == []
    finally:
        page.driver.quit()
        server.close()


def test_chromium_is_there() -> None:
    assert shutil.which(CHROMIUM) and shutil.which(DRIVER)
