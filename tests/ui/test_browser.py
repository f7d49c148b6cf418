"""The app in a real Chromium: the journey of a visitor, and that foreign text stays text."""

from __future__ import annotations

from itertools import product

from latentmem.method.voting import vote
from latentmem.ui.views.html import vote_bar
from tests.browser_page import DRAWN, OPENED, Page, click_point, marks, solve
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
    page.resize(width)
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
        page.resize()
    assert touching == 0 and len(seen) == 7
    assert all(
        shown and 0 <= gap <= 3 and abs(at - n / 8) < 0.01
        for n, (shown, gap, at) in enumerate(seen, 1)
    )


def test_the_journey(page: Page, url: str) -> None:
    """Solve, distil, try, keep, ask a neighbour, read the receipt, see why, delete, reload."""
    page.open_anew(url)
    memories = int(page.text("#lm-facts").split(" memories")[0].split()[-1])
    assert memories >= 12 and "Ask again" in page.text("#lm-status")
    solve(page, "Zoe sorts 12 shells into 3 boxes. How many shells lie in one box?")
    assert page.run("return document.querySelectorAll('#lm-cards .attempt').length") >= 8
    page.there("#lm-cards .katex")  # formulas are set
    page.run(
        "[...document.querySelectorAll('#lm-cards summary')].slice(0, 2).forEach(s => s.click())"
    )
    page.there("#lm-cards mark")  # what differs between the two
    assert page.run("""const wide = [...document.querySelectorAll('.attempt[open] .display')];
        return wide.length && wide.every(f => f.scrollWidth <= f.clientWidth)""")  # none is clipped
    assert page.run("return document.querySelectorAll('#lm-votes .seg').length") >= 2
    page.click("#lm-compare")
    page.there("#lm-columns .column", 3)  # without, with it, with another one
    page.click("#lm-replay")
    page.says("#lm-said", "same tokens")
    page.click("#lm-distil-this")
    page.there("#lm-curve .scatterlayer .trace", 3)
    page.there("#lm-outcome .outcome.open")
    page.run("""const looking = setInterval(() => {  // for a moment only
        if (document.querySelector('#lm-curve .lm-figure').offsetHeight) return;
        if (!document.querySelector('#lm-distil-cards .card')) return;
        clearInterval(looking);
        window.curveWent = true;
    }, 5);""")
    page.click("#lm-distil")  # once more: what was drawn goes, and comes again
    page.until("return window.curveWent")
    page.there("#lm-curve .scatterlayer .trace", 3)
    page.there("#lm-outcome .outcome.open")
    page.click("#lm-before-after")
    page.there("#lm-before-after-columns .column", 6)
    assert f"{memories} memories" in page.text("#lm-facts")
    page.click("#lm-keep")
    page.there("#lm-outcome .outcome.kept")
    page.says("#lm-facts", f"{memories + 1} memories")
    name = page.run("return document.querySelector('#lm-outcome a[data-memory]').dataset.memory")
    page.tab("Solve")
    solve(page, "Zoe sorts 15 shells into 5 boxes. How many shells lie in one box?")
    assert "Zoe sorts 12 shells" in page.text("#lm-receipt .used")
    page.click("#lm-receipt a[data-memory]")  # why this memory?
    page.until(OPENED, name)
    page.until(DRAWN, memories + 1)
    assert (
        f"?memory={name}" in page.driver.current_url or f"&memory={name}" in page.driver.current_url
    )
    # the problem, with edges to what is near
    page.until("return Boolean(window.latentmem.mapView.mark.star)")
    page.click("#lm-delete")
    page.click("#lm-really")
    page.says("#lm-facts", f"{memories} memories")
    assert page.reload() == []
    page.says("#lm-facts", f"{memories} memories")
    assert "memory=" not in page.driver.current_url
    assert page.errors() == []


def test_a_click_on_a_point_opens_its_memory_also_after_an_update(page: Page, url: str) -> None:
    page.open(url)
    page.tab("Memories")
    page.until(DRAWN, 12)
    for _ in range(2):
        name = click_point(page)
        page.until(OPENED, name)
        assert name in page.driver.current_url
        page.write(
            "#lm-ask textarea, #lm-ask input", "A train and a bus"
        )  # a star: Python sends another figure
        page.click("#lm-locate")
        page.until("return Boolean(window.latentmem.mapView.mark.star)")
    page.tab("Solve")  # and a map that changes while it is not shown is drawn when it is
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
    page.there("#lm-outcome .outcome.open")
    page.click("#lm-keep")
    page.there("#lm-outcome .outcome.kept")
    page.tab("Memories")
    page.click("table.bank tbody tr:has(a) a")
    page.there("#lm-memory .problem")
    page.write("#lm-ask textarea, #lm-ask input", NASTY)
    page.click("#lm-locate")
    page.until("return Boolean(window.latentmem.mapView.mark.star)")
    page.says("#lm-table", "<img src=x")
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

    page.open_anew(url)
    assert page.run("return document.querySelector('#lm-example input').value") != ""
    solve(page, "Zoe sorts 18 shells into 6 boxes. How many shells lie in one box?")
    assert page.run("return document.querySelector('#lm-example input').value") == "", (
        "what was typed is no example"
    )
    page.click("#lm-receipt a[data-memory]")
    page.there("#lm-memory-more .use details")
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
    # the way back ends at the link that was followed
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
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
    page.says("#lm-memory-notice", "There is no receipt")
    assert page.errors() == []
