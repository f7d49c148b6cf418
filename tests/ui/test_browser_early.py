"""A page that opens on the map: what is drawn before the rest of the page is there, and the way to
the other panels."""

from __future__ import annotations

import pytest

from tests.browser_page import Page, click_point, marks, solve

pytestmark = marks


def test_a_page_that_opens_on_the_map_leads_to_the_other_panels(page: Page, url: str) -> None:
    """Only the panel in the address is built at first."""
    page.open(url)
    page.tab("Memories")
    page.until("return document.querySelector('table.bank tbody a')")
    name = page.run(
        "return document.querySelector('table.bank tbody tr:last-child a').dataset.memory"
    )
    page.open(f"{url}?memory={name}")
    page.until(
        "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
        "arguments[0]",
        name,
    )
    assert page.run("return document.querySelector('#lm-solve')") is None
    page.run(
        "[...document.querySelectorAll('button')].find(b => b.innerText === 'Try it on a "
        "problem').click()"
    )
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    page.until(
        "return document.querySelector('#lm-receipt a[data-memory]')?.dataset.memory === "
        "arguments[0]",
        name,
    )
    assert page.errors() == []


def test_the_points_can_be_seen_and_opened_before_plotly_is_there(page: Page, url: str) -> None:
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*plotly*"]})
    try:
        page.open(f"{url}?panel=memories")
        page.until(
            "return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12"
        )
        fetched = (
            "return performance.getEntriesByType('resource').filter(e => "
            "e.name.endsWith('latentmem/map')).length"
        )
        assert page.run(fetched) == 1, "the browser began with it, and the page took that"
        page.until(
            "return latentmem.mapView.cloud.n === latentmem.mapData.points.ids?.split('\\n').length"
        )
        assert page.run(
            "const c = document.querySelector('#lm-map canvas');"
            "const drawn = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return drawn.some((value, k) => k % 4 === 3 && value === 255)"
        )
        page.until(
            "return latentmem.mapView.mark.stamp === latentmem.mapView.stamp"
        )  # a star of before may widen the picture
        name = click_point(page)
        page.until(
            "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
            "arguments[0]",
            name,
        )
        before = page.run("return latentmem.mapView.view().sx")
        page.click("[data-zoom=in]")
        assert page.run("return latentmem.mapView.view().sx") > 1.3 * before
    finally:
        page.driver.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    at = "const v = latentmem.mapView; return [v.view().sx, ...v.at(0)]"
    early = page.run(at)
    page.run(
        "const s = document.createElement('script'); s.src = latentmem.plotlyAt; "
        "document.head.append(s)"
    )
    page.until("return document.querySelector('#lm-map .lm-figure.js-plotly-plot .lm-cloud')")
    assert page.run(at) == pytest.approx(early, abs=0.5), (
        "the picture jumps when plotly takes it over"
    )
    page.open(url)
