"""The app in a real Chromium: the journey of a visitor, and that foreign text stays text."""

from __future__ import annotations

from itertools import product

from latentmem.method.voting import vote
from latentmem.ui.views.html import vote_bar
from tests.browser_page import Page, click_point, marks, solve
from tests.ui_samples import trace

NASTY = (
    "<img src=x onerror='window.hurt=1'> ${window.hurt=1} {{window.hurt}} "
    "</div><script>window.hurt=1</script> \\frac{1}{2}"
)

pytestmark = marks


def test_the_mark_of_the_decision_covers_no_letter_and_no_figure(page: Page, url: str) -> None:
    """Wherever the decision falls before the last attempt: the mark and what is written in the bar
    never touch."""
    page.open(url)
    for width, dark in product((1440, 390), (False, True)):
        mark_is_clear(page, width, dark)


def mark_is_clear(page: Page, width: int, dark: bool) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.run("window.latentmem.setTheme(arguments[0])", dark)
    done = [trace(i, "7" if i < 4 else None) for i in range(6)] + [trace(6, "8")]
    bars = [
        str(vote_bar(vote(done, 8), [0, 1], title="Vote", total=8, finished=7, decided_after=n))
        for n in range(1, 8)
    ]
    page.run(
        "document.querySelector('#lm-status .lm-live').innerHTML = arguments[0].join('')", bars
    )
    try:
        touching = page.run("""
            const text = (s) => { const r = document.createRange(); r.selectNodeContents(s); return r.getBoundingClientRect(); };
            return [...document.querySelectorAll('#lm-status .track')].flatMap((track) => {
              const m = track.querySelector('.mark').getBoundingClientRect();
              return [...track.querySelectorAll('.seg')].map(text).filter((t) => t.width &&
                m.left < t.right && t.left < m.right && m.top < t.bottom && t.top < m.bottom); }).length;""")
        seen = page.run("""return [...document.querySelectorAll('#lm-status .track')].map((track) => {
            const [m, b] = ['.mark', '.bar'].map((css) => track.querySelector(css).getBoundingClientRect());
            return [m.width > 5 && m.height > 5, b.top - m.bottom, (m.left + m.width / 2 - b.left) / b.width];})""")
    finally:
        page.run("window.latentmem.setTheme(false)")
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert touching == 0 and len(seen) == 7
    assert all(
        shown and 0 <= gap <= 3 and abs(at - n / 8) < 0.01
        for n, (shown, gap, at) in enumerate(seen, 1)
    )


def test_the_journey(page: Page, url: str) -> None:
    """Solve, distil, try, keep, ask a neighbour, read the receipt, see why, delete, reload."""
    page.open(url)
    assert "12 memories" in page.text("#lm-facts") and "Ask again" in page.text("#lm-status")
    solve(page, "Zoe sorts 12 shells into 3 boxes. How many shells lie in one box?")
    assert page.run("return document.querySelectorAll('#lm-cards .attempt').length") >= 8
    page.until("return document.querySelector('#lm-cards .katex')")  # formulas are set
    page.run(
        "[...document.querySelectorAll('#lm-cards summary')].slice(0, 2).forEach(s => s.click())"
    )
    page.until("return document.querySelector('#lm-cards mark')")  # what differs between the two
    assert page.run("""const wide = [...document.querySelectorAll('.attempt[open] .display')];
        return wide.length && wide.every(f => f.scrollWidth <= f.clientWidth)""")  # none is clipped
    assert page.run("return document.querySelectorAll('#lm-votes .seg').length") >= 2
    page.click("#lm-compare")
    page.until(
        "return document.querySelectorAll('#lm-columns .column').length === 3"
    )  # without, with it, with another one
    page.click("#lm-replay")
    page.until("return document.querySelector('#lm-said').innerText.includes('same tokens')")
    page.click("#lm-distil-this")
    page.until("return document.querySelectorAll('#lm-curve .scatterlayer .trace').length === 3")
    page.until("return document.querySelector('#lm-outcome .outcome.open')")
    page.click("#lm-distil")  # once more: what was drawn goes, and comes again
    page.until(
        "return document.querySelector('#lm-distil-cards .card') && "
        "document.querySelector('#lm-curve .lm-figure').offsetHeight === 0"
    )
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
    page.until(
        "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
        "arguments[0]",
        name,
    )
    page.until("return Number(document.querySelector('#lm-map .lm-figure').dataset.points) === 13")
    assert (
        f"?memory={name}" in page.driver.current_url or f"&memory={name}" in page.driver.current_url
    )
    page.until(
        "return Boolean(window.latentmem.mapView.mark.star)"
    )  # the problem, with edges to what is near
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
        page.until(
            "return document.querySelector('#lm-memory [data-address]')?.dataset.address === "
            "arguments[0]",
            name,
        )
        assert name in page.driver.current_url
        page.write(
            "#lm-ask textarea, #lm-ask input", "A train and a bus"
        )  # a star: Python sends another figure
        page.click("#lm-locate")
        page.until("return Boolean(window.latentmem.mapView.mark.star)")
    assert page.errors() == []


def test_a_map_that_changed_while_it_was_not_shown_is_drawn_when_it_is(
    page: Page, url: str
) -> None:
    page.open(url)
    page.tab("Memories")
    page.until("return Number(document.querySelector('#lm-map .lm-figure')?.dataset.points) >= 12")
    page.tab("Solve")
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    page.click("#lm-receipt a[data-memory]")
    page.until("return Boolean(window.latentmem.mapView.mark.star)")
    page.until(
        "const texts = (list) => (list ?? []).map(a => [a.x, a.y, a.text].join()).join(' ');"
        "const meant = texts(latentmem.mapView.mark.annotations);"
        "return meant && meant === texts(latentmem.mapView.host.layout.annotations)",
        seconds=20,
    )
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
    assert "${window.hurt=1}" in page.run(
        "return document.querySelector('#lm-ask textarea, #lm-ask input').value"
    )
    assert page.run("return window.hurt ?? null") is None
    assert (
        page.run(
            "return document.querySelectorAll('.lm-live img, .lm-live script, .lm-figure "
            "img').length"
        )
        == 0
    )
    assert page.errors() == []


def test_the_address_of_a_memory_and_the_keyboard(page: Page, url: str) -> None:
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
    from selenium.webdriver.common.keys import Keys

    page.run("document.querySelector('table.bank tbody tr:first-child a').focus()")
    page.driver.switch_to.active_element.send_keys(
        Keys.ENTER
    )  # a name in the table opens with Enter
    page.until(
        "return document.querySelector('#lm-memory [data-address]').dataset.address !== "
        "arguments[0]",
        name,
    )
    assert page.errors() == []


def test_a_receipt_opens_from_the_page_of_its_memory(page: Page, url: str) -> None:
    """By keyboard there and back, by the browser's own way back, and by its address."""
    from selenium.webdriver.common.keys import Keys

    def shown(receipt: str) -> str:
        return page.until(
            "return document.querySelector('#lm-memory [data-address]')?.dataset.receiptOpen === "
            "arguments[0] && document.activeElement.matches(arguments[0] ? '[data-focus]' : "
            "'[data-receipt]')",
            receipt,
        )

    page.driver.get(f"{url}manifest.json")  # a page of the same origin without our scripts
    page.run("sessionStorage.clear()")  # a first visit: nothing of the test before comes back
    page.open(url)
    assert page.run("return document.querySelector('#lm-example input').value") != ""
    solve(page, "Zoe sorts 18 shells into 6 boxes. How many shells lie in one box?")
    assert page.run("return document.querySelector('#lm-example input').value") == "", (
        "what was typed is no example"
    )
    page.click("#lm-receipt a[data-memory]")
    page.until("return document.querySelector('#lm-memory-more .use details')")
    memory = page.run("return document.querySelector('#lm-memory [data-address]').dataset.address")
    receipt = page.run("""document.querySelector('#lm-memory-more .use details').open = true;
        const link = document.querySelector('#lm-memory-more .use a[data-receipt]'); link.focus();
        return link.dataset.receipt""")
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    shown(receipt)
    assert (
        "18 shells" in page.text("#lm-memory-more .stored")
        and f"memory={memory}" in page.driver.current_url
    )
    assert f"receipt={receipt}" in page.driver.current_url
    page.run("document.querySelector('#lm-memory-more .stored a[data-memory]').focus()")
    page.driver.switch_to.active_element.send_keys(
        Keys.ENTER
    )  # the way back ends at the link that was followed
    shown("")
    assert page.run("return document.activeElement.dataset.receipt") == receipt
    assert "receipt=" not in page.driver.current_url
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    shown(receipt)
    page.driver.back()
    page.until("return !document.querySelector('#lm-memory [data-address]').dataset.receiptOpen")
    page.driver.forward()
    shown(receipt)
    page.open(f"{url}?receipt={receipt}")
    shown(receipt)
    assert page.run("return latentmem.opensMap"), "its points come with the page"
    asks = "return document.querySelector('[data-do=forget]').checkVisibility()"
    assert not page.run(asks), "the question stands in a fold"
    page.run("document.querySelector('details:has([data-do=forget]) summary').click()")
    assert page.run(asks)
    assert f"memory={memory}" in page.driver.current_url
    page.open(f"{url}?receipt=r404")
    page.until(
        "return document.querySelector('#lm-memory-notice').innerText.includes('There is no "
        "receipt')"
    )
    assert page.errors() == []


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
        other.until("return document.querySelector('#lm-status').innerText.includes('1 run ahead')")
        page.click("#lm-stop")
        page.until("return document.querySelector('#lm-status').innerText.includes('Stopped')")
        page.until("return !document.querySelector('#lm-solve').disabled")
        assert "writing…" not in page.text("#lm-cards")
        other.until(
            "return document.querySelector('#lm-receipt .receipt')"
        )  # the stopped run made room
        assert other.run("return document.documentElement.scrollWidth <= window.innerWidth + 1")
        assert page.errors() == [] and other.errors() == []
    finally:
        other.driver.quit()
