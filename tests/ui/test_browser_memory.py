"""The Memories panel in a real Chromium: the map's own ways to choose, the page of an open memory,
and where the keyboard's place goes."""

from __future__ import annotations

import time

from tests.browser_page import AT, DRAWN, OPENED, Page, marks, solve

pytestmark = marks


def test_a_click_within_an_open_memory_leaves_it_open(page: Page, url: str) -> None:
    """Nothing of its head is a link but links; the × of a tag takes the tag away. Its dot gets
    another colour at once."""
    page.open(f"{url}?panel=memories")
    page.until(DRAWN, 12)
    page.click("table.bank tbody tr:first-child a")
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address")
    page.write("#lm-tag input, #lm-tag textarea", "odd")
    page.click("#lm-add-tag")
    tag = "#lm-memory .chip.tag button[data-value=odd]"
    page.until("return document.querySelector(arguments[0])", tag)
    name = page.run("return document.querySelector('#lm-memory [data-address]').dataset.address")
    for css in ("#lm-memory h2.problem", "#lm-memory .kind", tag):
        page.click(css)
        time.sleep(0.5)
    page.until("return !document.querySelector(arguments[0])", tag)
    assert (
        page.run("return document.querySelector('#lm-memory [data-address]').dataset.address")
        == name
    )
    assert f"memory={name}" in page.driver.current_url
    grey = "return latentmem.mapData.paint.groups.find(g => g.name === 'quarantined')?.count ?? 0"
    before = page.run(grey)
    page.click("#lm-quarantine")
    page.until(lambda: page.run(grey) == before + 1)
    page.click("#lm-release")
    page.until(lambda: page.run(grey) == before)
    assert page.errors() == []


def test_the_keyboards_place_is_not_lost_with_the_button_that_had_it(page: Page, url: str) -> None:
    from selenium.webdriver.common.keys import Keys

    def press(css: str, then: str) -> None:
        page.until(
            "const e = document.querySelector(arguments[0]); if (!e?.getClientRects().length) "
            "return false;e.focus(); return document.activeElement === e",
            css,
        )
        page.driver.switch_to.active_element.send_keys(Keys.ENTER)
        page.until("return document.activeElement.matches(arguments[0])", then)

    page.open(f"{url}?panel=memories")
    page.until(DRAWN, 12)
    page.click("table.bank tbody tr:first-child a")
    press("#lm-quarantine", "#lm-release")
    press("#lm-release", "#lm-quarantine")
    press("#lm-delete", "#lm-delete")
    press("#lm-spare", "#lm-delete")
    press("#lm-close", "#lm-map .lm-figure")
    page.tab("Distil")
    for choice, then in (("#lm-discard", "#lm-distil"), ("#lm-keep", "#lm-outcome a")):
        page.write(
            "#lm-distil-problem textarea",
            "Zoe sorts 21 shells into 7 boxes. How many shells lie in one box?",
        )
        page.click("#lm-distil")
        page.there("#lm-outcome .outcome.open")
        press(choice, then)
    page.click("#lm-outcome a[data-memory]")
    press("#lm-delete", "#lm-delete")
    press("#lm-really", "#lm-map .lm-figure")
    assert page.errors() == []


def test_walking_on_before_the_server_has_answered_loses_no_step(page: Page, url: str) -> None:
    """Twice back at once, then a memory that is opened within the next second."""
    page.open(url)
    # a page that was not just loaded
    page.run("const now = Date.now; Date.now = () => now() + 60_000")
    page.tab("Memories")
    page.until("return document.querySelectorAll('table.bank tbody a').length >= 4")
    named = "return [...document.querySelectorAll('table.bank tbody a')].map(a => a.dataset.memory)"
    first, second, third, other = list(dict.fromkeys(page.run(named)))[:4]
    opened = (
        "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
        "arguments[0]"
    )
    for name in (first, second, third):
        page.click(f"table.bank tbody a[data-memory='{name}']")
        page.until(opened, name)
    page.run("history.back(); setTimeout(() => history.back(), 30)")
    page.until("return new URL(location.href).searchParams.get('memory') === arguments[0]", first)
    page.until(opened, first)
    page.click(f"table.bank tbody a[data-memory='{other}']")
    page.until(opened, other)
    page.driver.back()
    page.until(opened, first)
    page.driver.forward()
    page.until(opened, other)
    assert f"memory={other}" in page.driver.current_url and page.errors() == []


def test_a_page_that_opens_on_the_map_leads_to_the_other_panels(page: Page, url: str) -> None:
    """Only the panel in the address is built at first. A name in the table opens with Enter."""
    from selenium.webdriver.common.keys import Keys

    page.open(url)
    page.tab("Memories")
    page.there("table.bank tbody a")
    name = page.run(
        "return document.querySelector('table.bank tbody tr:last-child a').dataset.memory"
    )
    page.open(f"{url}?memory={name}")
    page.until(OPENED, name)
    assert page.run("return document.querySelector('#lm-solve')") is None
    first = "document.querySelector('table.bank tbody tr:first-child a')"
    page.run(f"{first}.focus()")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    page.until(OPENED, page.run(f"return {first}.dataset.memory"))
    page.click(f"table.bank tbody a[data-memory='{name}']")
    page.until(OPENED, name)
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


def test_points_are_chosen_by_lasso_by_keyboard_and_in_the_table(page: Page, url: str) -> None:
    """Whatever was used, the table's ticks, the area below the map and the dimmed points agree."""
    from selenium.webdriver.common.keys import Keys

    page.open(f"{url}?panel=memories")
    page.until(DRAWN, 12)
    page.click("#lm-map .modebar-btn[data-val=lasso]")
    left, top, width, height = page.run(
        "const b = document.querySelector('#lm-map .nsewdrag').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]"
    )
    corners = [(0.02, 0.02), (0.98, 0.02), (0.98, 0.98), (0.02, 0.98), (0.02, 0.02)]
    steps = ["mousePressed", *["mouseMoved"] * 3, "mouseReleased"]
    for kind, (x, y) in zip(steps, corners, strict=True):
        where = {"x": left + x * width, "y": top + y * height, "button": "left", "buttons": 1}
        page.driver.execute_cdp_cmd(
            "Input.dispatchMouseEvent", {"type": kind, "clickCount": 1, **where}
        )
    page.until("return latentmem.mapView.picked.size > 5")
    many = page.run("return latentmem.mapView.picked.size")
    page.until(
        "return document.querySelector('#lm-selected h3')?.innerText === `${arguments[0]} memories "
        "selected`",
        many,
    )
    assert page.run("return document.querySelectorAll('#lm-table input:checked').length") == many
    assert page.run("return latentmem.mapView.host._fullLayout.dragmode") == "lasso"
    page.run("latentmem.mapView.host.focus()")
    keys = page.driver.switch_to.active_element
    none = "return latentmem.mapView.picked.size === 0"  # after the star of a test before
    page.until(lambda: keys.send_keys(Keys.ESCAPE) or page.run(none))
    keys.send_keys(Keys.ARROW_RIGHT, Keys.SPACE)
    page.until("return latentmem.mapView.picked.size === 1")
    page.there("#lm-map .hoverlayer .hovertext")
    assert "selected" in page.text("#lm-map [aria-live]")
    keys.send_keys(Keys.ENTER)
    page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address")
    page.until("return latentmem.mapView.host.layout.annotations.length >= 1")
    page.run("latentmem.mapView.pick([])")
    assert page.errors() == []


def test_a_phone_opens_a_point_with_a_tap_and_still_scrolls(page: Page, url: str) -> None:
    page.resize(390, 844)
    page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
    try:
        page.open(f"{url}?panel=memories")
        page.until(DRAWN, 12)
        assert page.run("return latentmem.mapView.host._fullLayout.dragmode") is False
        assert page.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        x, y = page.run(
            f"{AT} host.scrollIntoView({{block: 'center'}});"
            "const box = host.getBoundingClientRect(), [px, py] = at(0);"
            "return [box.left + px, box.top + py]"
        )
        touch = [{"x": x, "y": y}]
        for kind, points in (("touchStart", touch), ("touchEnd", [])):
            page.driver.execute_cdp_cmd(
                "Input.dispatchTouchEvent", {"type": kind, "touchPoints": points}
            )
        page.until("return document.querySelector('#lm-memory [data-address]')?.dataset.address")
        assert page.errors() == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
        page.resize()
