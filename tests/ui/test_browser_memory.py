"""The page of an open memory in a real Chromium: what a click in it does, and where the keyboard's
place goes."""

from __future__ import annotations

import time

from tests.browser_page import Page, marks

pytestmark = marks


def test_a_click_within_an_open_memory_leaves_it_open(page: Page, url: str) -> None:
    """Nothing of its head is a link but links; the × of a tag takes the tag away. Its dot gets
    another colour at once."""
    page.open(f"{url}?panel=memories")
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
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
    grey = (
        "return Number([...document.querySelectorAll('.lm-legend button')].find("
        "b => b.innerText.includes('quarantined'))?.querySelector('.num').innerText ?? 0)"
    )
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
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
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
        page.until("return document.querySelector('#lm-outcome .outcome.open')")
        press(choice, then)
    page.click("#lm-outcome a[data-memory]")
    press("#lm-delete", "#lm-delete")
    press("#lm-really", "#lm-map .lm-figure")
    assert page.errors() == []


def test_walking_on_before_the_server_has_answered_loses_no_step(page: Page, url: str) -> None:
    """Twice back at once, then a memory that is opened within the next second."""
    page.open(url)
    page.run(
        "const now = Date.now; Date.now = () => now() + 60_000"
    )  # a page that was not just loaded
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
